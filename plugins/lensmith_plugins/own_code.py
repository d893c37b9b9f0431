"""Code that a checkpoint brings along (`auto_map`): it is never run, and transformers never asks whether to run it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FILES = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


@contextmanager
def code_not_run(source: str) -> Iterator[None]:
    """Around a call of transformers with `trust_remote_code=False`: what that means is said in one line.

    Where transformers has a class of its own for the checkpoint it takes that one, which is said as a warning, since
    it may not be what the checkpoint's authors ran.

    Args:
        source: a folder, a file in one, or a hub id.

    Raises:
        ValueError: transformers has no class of its own for the checkpoint.
    """
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        files = " and ".join(file.name for file in files_with_code(source)) or "its config"
        raise ValueError(
            f"{source} can only be loaded by code of its own (`auto_map` in {files}), and Lensmith never runs code"
            " that a checkpoint brings; choose a checkpoint that transformers has a class for, or write a plugin"
        ) from error
    for file in files_with_code(source):
        text = "names code of its own (`auto_map`), which is never run; transformers' own class is taken instead"
        warnings.warn_explicit(text, UserWarning, filename=str(file), lineno=0)


def files_with_code(source: str) -> list[Path]:
    """The files of a folder that name code of its own."""
    folder = Path(source)
    folder = folder.parent if folder.is_file() else folder
    return [folder / name for name in _FILES if (folder / name).is_file() and _names_code(folder / name)]


def _names_code(file: Path) -> bool:
    try:
        data = json.loads(file.read_bytes())
    except (ValueError, OSError, RecursionError):  # told by whoever reads it for its contents
        return False
    return isinstance(data, dict) and bool(data.get("auto_map"))
