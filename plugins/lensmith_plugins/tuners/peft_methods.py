"""What is known of peft's methods without importing it: their names, config fields, and which cannot work here."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

PREFIX = "prefix_tuning"
ADAPTION_PROMPT = "adaption_prompt"

_IDS = "it puts learnt tokens in front of the token ids, and a picture has none: the model reads input embeddings"
REFUSED = {
    "prompt_tuning": _IDS + "; prefix_tuning learns keys and values instead",
    "p_tuning": _IDS + "; prefix_tuning learns keys and values instead",
    "multitask_prompt_tuning": _IDS + ", and a task number with each row",
    "cpt": _IDS,
    "xlora": "it reads token ids to choose between adapters that were trained before",
    "poly": "it needs a task number with each row",
    "trainable_tokens": "it trains rows of the embeddings by token id; train them with `full` and `layers: embeddings`",
    "ln_tuning": "it trains norms, which are no linear layers; train them with `full`",
    "adalora": "it must be told of every optimiser step to move ranks between layers; use `lora`",
    "lora": "it has a tuner of its own: `lora`, or `qlora` in 4 bits",
    "shadow": "it runs a second network on the token ids",
    "cartridge": "it needs a cache that is made of a text beforehand",
    "boft": "it compiles a CUDA extension where it is used, and cannot be planned without weights; use `oft` or `hra`",
    "osf": "it replaces the weights themselves, so its artifact would not fit the base that it names",
}
"""Methods that peft has and this tuner refuses, with the reason."""
RESERVED = {
    "peft_type": "it follows from `method`",
    "task_type": "it is always CAUSAL_LM",
    "base_model_name_or_path": "it follows from the language model",
    "revision": "it follows from the language model",
    "inference_mode": "it is set while training",
    "auto_mapping": "it is set while saving",
    "peft_version": "it is set while saving",
    "modules_to_save": "whole parts are trained by `full`, the connector by `connector: true`",
    "bias": "adapters leave the base weights alone",
}
"""Config fields that are not a user's, with the reason."""


@functools.cache
def fields_by_method() -> dict[str, tuple[str, ...]]:
    """The fields of every method's config class, read from peft's source; empty where peft is not installed."""
    # A top-level find_spec imports nothing.
    found = find_spec("peft")
    if found is None or not found.submodule_search_locations:
        return {}
    root = Path(next(iter(found.submodule_search_locations)))
    known: dict[str, tuple[list[str], list[str]]] = {}
    for file in (root / "config.py", *sorted(root.glob("tuners/*.py"))):
        known.update(_classes(file))
    methods = {}
    for file in sorted(root.glob("tuners/*/config.py")):
        here = known | dict(_classes(file))
        name = file.parent.name
        wanted = f"{name.replace('_', '')}config"
        matching = [cls for cls in here if cls.lower() == wanted] or [
            cls for cls, (bases, _) in here.items() if cls not in known and "PeftConfig" in bases
        ]
        if matching:
            methods[name] = tuple(dict.fromkeys(_fields(matching[0], here)))
    return methods


def _classes(file: Path) -> Iterator[tuple[str, tuple[list[str], list[str]]]]:
    """Each class of a file: its bases and its annotated fields."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            fields = [
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            ]
            yield node.name, (bases, fields)


def _fields(name: str, classes: dict[str, tuple[list[str], list[str]]]) -> Iterator[str]:
    bases, own = classes.get(name, ([], []))
    for base in bases:
        yield from _fields(base, classes)
    yield from own
