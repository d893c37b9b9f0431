"""The tokenizer as the original LLaVA reads it: SentencePiece, by the rules of a `LlamaTokenizer`."""

from __future__ import annotations

import shutil
from pathlib import Path

from lensmith.files import write_json
from lensmith.io.json import read_object
from lensmith_plugins.language_models.tokenizer_loading import load_tokenizer

_MODEL, _CONFIG, _FAST = "tokenizer.model", "tokenizer_config.json", "tokenizer.json"


def slow_tokenizer(source: Path, folder: Path) -> list[str]:
    """Copy a tokenizer; one that is described by a tokenizer.json is described by its SentencePiece model instead.

    Returns:
        What the user should know.
    """
    files = sorted(source.iterdir())
    if not (source / _FAST).is_file():
        for file in files:
            shutil.copyfile(file, folder / file.name)
        return []
    if not (source / _MODEL).is_file():
        for file in files:
            shutil.copyfile(file, folder / file.name)
        return ["its loader reads slow tokenizers (use_fast=False), and this one has no tokenizer.model"]
    own = load_tokenizer(str(source))
    for file in files:
        if file.name not in (_FAST, _CONFIG):
            shutil.copyfile(file, folder / file.name)
    config = read_object(source / _CONFIG)
    rules = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": own.prefix.scope == "always",
        "add_bos_token": own.bos_id is not None,
        "add_eos_token": False,
    }
    write_json(folder / _CONFIG, {**config, **rules})
    return []
