"""A tokenizer.json that makes of a prompt with `<image>` the ids that Lensmith makes of it.

SentencePiece models write the beginning of a text with a mark (`▁`). Around a picture LLaVA tokenises two texts, each
with its mark; after `</s>` there is none (or one, by the tokenizer's age). Plain files can say this: a normaliser puts
the mark after `<image>`, which therefore is a token that is looked for in normalised text.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensmith.files import write_json
from lensmith_plugins.language_models.hf_tokenizer import MARK, HfTokenizer
from lensmith_plugins.language_models.tokenizer_files import find_file

PAD = "<pad>"


@dataclass(frozen=True)
class TokenizerFiles:
    """What is written, and the ids that a model's config names.

    Args:
        data: tokenizer.json.
        config: tokenizer_config.json.
        image_id, pad_id: ids.
        length: one more than the last id.
    """

    data: dict[str, Any]
    config: dict[str, Any]
    image_id: int
    pad_id: int
    length: int

    def write(self, folder: Path, source: str) -> None:
        """Write them, with the SentencePiece model beside them where there is one (llama.cpp reads it)."""
        write_json(folder / "tokenizer.json", self.data)
        write_json(folder / "tokenizer_config.json", self.config)
        if model := find_file(source, "tokenizer.model"):
            shutil.copyfile(model, folder / "tokenizer.model")


def tokenizer_files(tokenizer: HfTokenizer, image_token: str, processor: str) -> TokenizerFiles:
    """Files of a tokenizer with an image token and a token to pad with.

    Args:
        tokenizer: the language model's.
        image_token: the literal.
        processor: name of the processor class that goes with it.
    """
    data = json.loads(tokenizer.backend)
    marked = tokenizer.prefix.scope == "first"
    following = 1 + max(_ids(data), default=-1)
    image, following = _add(data, image_token, following, normalized=marked)
    literal, pad, following = _pad(data, tokenizer, following)
    _prefix(data, tokenizer, image_token)
    names = {role: text for role, text in tokenizer.named.items() if isinstance(text, str)}
    names |= {"eos_token": tokenizer.eos_token, "pad_token": literal}
    if tokenizer.bos_id is not None:
        bos = names["bos_token"]
        begin = [{"SpecialToken": {"id": bos, "type_id": 0}}]
        one, two = ({"Sequence": {"id": letter, "type_id": kind}} for letter, kind in (("A", 0), ("B", 1)))
        data["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [*begin, one],
            "pair": [*begin, one, two],
            "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}},
        }
    decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in data["added_tokens"]}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": processor,
        "added_tokens_decoder": decoder,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left",
        "add_bos_token": tokenizer.bos_id is not None,
        **names,
    }
    return TokenizerFiles(data, config, image, pad, following)


def _ids(data: dict[str, Any]) -> set[int]:
    stored = data["model"]["vocab"]  # a list of (token, score) where the model is Unigram
    own = set(stored.values()) if isinstance(stored, dict) else set(range(len(stored)))
    return own | {token["id"] for token in data["added_tokens"]}


def _add(data: dict[str, Any], literal: str, following: int, *, normalized: bool) -> tuple[int, int]:
    """Make a literal a special token; its id, and the next free one."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": normalized, "special": True}
    for token in data["added_tokens"]:
        if token["content"] == literal:
            token |= flags
            return int(token["id"]), following
    data["added_tokens"].append({"id": following, "content": literal, **flags})
    return following, following + 1


def _pad(data: dict[str, Any], tokenizer: HfTokenizer, following: int) -> tuple[str, int, int]:
    """The padding token: the tokenizer's where it is for nothing else, `<pad>` otherwise."""
    own = {index: literal for literal, index in tokenizer.added.items()}
    if tokenizer.pad_id in own and tokenizer.pad_id not in (tokenizer.unk_id, tokenizer.eos_id):
        return own[tokenizer.pad_id], tokenizer.pad_id, following
    index, following = _add(data, PAD, following, normalized=False)
    return PAD, index, following


def _prefix(data: dict[str, Any], tokenizer: HfTokenizer, image_token: str) -> None:
    """Put back the mark at the beginning of texts, and where a text begins after a picture."""
    prefix = tokenizer.prefix
    if prefix.scope == "never":
        return
    if prefix.scope == "always" and prefix.doubles:
        _normalise_first(data, {"type": "Prepend", "prepend": MARK})
        return
    _metaspace(data, "always" if prefix.scope == "always" else "first")
    if prefix.scope == "first":
        # Not before another picture, nor where nothing follows; the pattern leaves the token's own literal alone.
        stops = rf"{image_token}|\z" + ("" if prefix.doubles else "| ")
        pattern = {"Regex": rf"{image_token}(?!{stops})"}
        _normalise_first(data, {"type": "Replace", "pattern": pattern, "content": image_token + MARK})


def _normalise_first(data: dict[str, Any], step: dict[str, Any]) -> None:
    there = data["normalizer"]
    steps = [] if there is None else there["normalizers"] if there["type"] == "Sequence" else [there]
    data["normalizer"] = {"type": "Sequence", "normalizers": [step, *steps]}


def _metaspace(data: dict[str, Any], scheme: str) -> None:
    there = data["pre_tokenizer"]
    steps = [] if there is None else there["pretokenizers"] if there["type"] == "Sequence" else [there]
    marks = [step for step in steps if step["type"] == "Metaspace"]
    if marks:
        for step in marks:
            step["prepend_scheme"] = scheme
        return
    step = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": False}
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [step, *steps]} if steps else step
