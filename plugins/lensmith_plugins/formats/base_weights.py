"""Decoder and vision tower of an artifact, tensor by tensor under their plain names, from wherever they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lensmith import LensmithError, is_hub_id
from lensmith.conversion.foreign import snapshot
from lensmith.conversion.held import Held
from lensmith.conversion.stored import Stored, read_all, weight_files
from lensmith.io.json import read_object
from lensmith_plugins.formats.import_parts import NEEDLESS
from lensmith_plugins.language_models.specs import CausalSpec
from lensmith_plugins.language_models.vocabulary import ADDED

_TEXT = ("text_model.", "visual_projection.", "text_projection.", "logit_scale", "logit_bias", "vision_model.head.")


def decoder(held: Held) -> tuple[dict[str, Stored], dict[str, Any]]:
    """The language model's tensors (`model.…`, `lm_head.weight`, tied or not) and its config.

    Raises:
        LensmithError: an architecture whose tensors have other names.
    """
    spec: Any = held.spec.language_model
    folder = _folder(spec.checkpoint)
    if folder is None or not _says_all(spec, folder):
        folder = held.rewritten("language_model")
    config = read_object(folder / "config.json", nonfinite=True)
    tensors = {n: t.to(held.dtype) for n, t in _read(folder).items() if not NEEDLESS.search(n)}
    if foreign := sorted(name for name in tensors if not name.startswith("model.") and name != "lm_head.weight"):
        raise LensmithError(f"{folder}: a decoder with {', '.join(foreign[:4])} has no place in this format")
    table = tensors["model.embed_tokens.weight"]
    # Tied: a head of its own is written, and files of tensors hold no two names of one memory.
    tensors.setdefault("lm_head.weight", Stored(table.shape, table.dtype, lambda: table.load().clone(), table.origin))
    config.pop(ADDED, None)
    return tensors, {**config, "tie_word_embeddings": False}


def tower(held: Held) -> tuple[dict[str, Stored], int]:
    """The vision tower's tensors (`embeddings.…`, `encoder.layers.…`) and how many of its blocks there are.

    An encoder that was trained has no block past the layer that it selects.
    """
    spec: Any = held.spec.vision_encoder
    folder = _folder(spec.checkpoint)
    if folder is None or not weight_files(folder):
        folder = held.rewritten("vision_encoder")
    found = {
        name.removeprefix("vision_model."): stored.to(held.dtype)
        for name, stored in _read(folder).items()
        if not name.startswith(_TEXT) and not NEEDLESS.search(name) and not name.startswith("head.")
    }
    blocks = {name.split(".")[2] for name in found if name.startswith("encoder.layers.")}
    return found, len(blocks)


def _folder(checkpoint: str | None) -> Path | None:
    """Where a checkpoint is on this machine; None for one that is no folder."""
    if checkpoint is None:
        return None
    path = Path(checkpoint)
    if path.is_dir():
        return path
    return None if path.exists() or not is_hub_id(checkpoint) else snapshot(checkpoint)


def _says_all(spec: CausalSpec, folder: Path) -> bool:
    """Whether the files are the weights: no tokens to be added, no blocks to be left out, nothing packed."""
    config = spec.read_config()
    if not spec.whole():
        return False
    added = set(spec.add_tokens) <= set(config.get(ADDED, ()))
    return bool(weight_files(folder)) and added and "quantization_config" not in config


def _read(folder: Path) -> dict[str, Stored]:
    files = weight_files(folder)
    if not files:
        raise LensmithError(f"{folder} holds no weights (model.safetensors, pytorch_model.bin or their index)")
    return read_all(files)
