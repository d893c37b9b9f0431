"""Where a tokenizer's files are, and transformers' own reading of them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, LlamaTokenizer

from lensmith.checkpoints import hub_file, is_hub_id
from lensmith.io.json import read_object
from lensmith_plugins.language_models.gguf_header import is_gguf
from lensmith_plugins.language_models.vocabulary import VOCABULARIES
from lensmith_plugins.own_code import code_not_run

TOKENIZER_FILES = (
    *VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)


def find_file(source: str, name: str) -> Path | None:
    """A file of a folder or hub repository, None where it has no such file."""
    path = Path(source) / name
    if path.is_file():
        return path
    if Path(source).exists() or not is_hub_id(source):
        return None
    try:
        return hub_file(source, name)
    except FileNotFoundError:
        return None


def tokenizer_config(source: str) -> dict[str, Any]:
    """What `tokenizer_config.json` says; empty where there is none."""
    path = find_file(source, "tokenizer_config.json")
    return read_object(path, nonfinite=True) if path else {}


def open_sentencepiece(source: str) -> Any:
    """The LLaMA tokenizer of a folder or hub id read from its `tokenizer.model`, whatever stands beside that.

    Raises:
        OSError: there is no such file.
    """
    if is_gguf(source) or find_file(source, "tokenizer.model") is None:
        raise FileNotFoundError(
            f"{source} has no tokenizer.model, which `tokenization: sentencepiece` and `transformers-4.31` read;"
            " set `model.language_model.tokenizer` to a folder that has one, or `tokenization: auto`"
        )
    with tempfile.TemporaryDirectory() as folder:
        for name in TOKENIZER_FILES:
            if name != "tokenizer.json" and (path := find_file(source, name)):
                shutil.copyfile(path, Path(folder) / name)
        return LlamaTokenizer.from_pretrained(folder, trust_remote_code=False)


def open_tokenizer(source: str) -> Any:
    """The transformers tokenizer of a folder, a hub id or a `.gguf` file.

    Raises:
        OSError: there is no tokenizer.
    """
    if is_gguf(source):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist")
        return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, trust_remote_code=False)
    folder = Path(source)
    if folder.exists() or not is_hub_id(source):
        if not any((folder / name).is_file() for name in VOCABULARIES):
            raise FileNotFoundError(
                f"{folder} holds no tokenizer (none of {', '.join(VOCABULARIES[:3])}, …);"
                " set `model.language_model.tokenizer`"
            )
        alone = (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file()
        if alone and str(tokenizer_config(source).get("tokenizer_class", "LlamaTokenizer")).lower() == "llamatokenizer":
            # As LLaMA was published: with no class, or with an older spelling of it, AutoTokenizer guesses another.
            return LlamaTokenizer.from_pretrained(source, trust_remote_code=False)
    with code_not_run(source):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
