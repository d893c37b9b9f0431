"""What importers share: tokenizers, language models by their architecture, tensors that nobody needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lensmith import LensmithError
from lensmith.conversion.foreign import Foreign
from lensmith_plugins.formats.import_specs import OpenSpec
from lensmith_plugins.language_models.tokenizer_files import TOKENIZER_FILES

NEEDLESS = re.compile(r"(rotary_emb\.inv_freq|embeddings\.position_ids)$")
"""Buffers that older checkpoints hold and that follow from the sizes."""
_OWN_TOKENIZER = [name for name in TOKENIZER_FILES if name.startswith(("tokenizer.", "vocab."))]


def language_model(spec: OpenSpec, source: Foreign, model_type: str, base: str | None = None) -> dict[str, Any]:
    """The `language_model` section for an architecture.

    Args:
        spec: what the user said.
        source: the checkpoint.
        model_type: of its decoder, by transformers' name.
        base: where its weights are, else the checkpoint itself.
    """
    found: dict[str, Any] = {"name": "llama" if model_type == "llama" else "hf_causal"}
    found["checkpoint"] = base if base is not None else str(source.name if source.revision else source.path)
    if spec.tokenizer is not None:
        found["tokenizer"] = spec.tokenizer
    elif any(source.has(name) for name in _OWN_TOKENIZER):
        found["tokenizer"] = str(source.path)
    elif base is None:
        raise LensmithError(
            f"{source.name} holds no tokenizer (none of {', '.join(_OWN_TOKENIZER)}); say where it is with"
            " tokenizer=FOLDER"
        )
    return found


def tokenizer_folder(section: Mapping[str, Any]) -> Path:
    """Where a section's tokenizer is read."""
    return Path(section.get("tokenizer") or section["checkpoint"])


def conversation(spec: OpenSpec) -> tuple[dict[str, Any], list[str]]:
    """The `conversation` section, empty where the language model's own is taken; and what the user should know."""
    if spec.conversation is not None:
        return {"conversation": spec.conversation}, []
    return {}, [
        "the prompt template is the language model's own, as no file says which the model was tuned with"
        " (conversation=NAME for another)"
    ]


def refuse_rest(source: Foreign, names: Iterable[str]) -> None:
    """Refuse tensors that no part takes.

    Raises:
        LensmithError: naming them.
    """
    rest = sorted(names)
    if rest:
        more = f" and {len(rest) - 6} more" if len(rest) > 6 else ""
        raise LensmithError(
            f"{source.name} holds tensors that no part of Lensmith takes: {', '.join(rest[:6])}{more}; it is of a model"
            " with more or other parts"
        )


CLIP_KEYS = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_convert_rgb",
)
"""What a preprocessor_config.json says of one view."""
