"""The original LLaVA's config.json to the sections of a spec, and what in it cannot be had here. No torch."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from lensmith import LensmithError

DECODERS = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral"}
"""`model_type` of the decoder by that of the checkpoint."""
OWN_KEYS = re.compile(
    r"(mm_|tune_mm_|freeze_mm_|image_(aspect_ratio|grid_pinpoints|crop_resolution)|use_mm_proj|tokenizer_|unfreeze_mm_)"
)
"""Keys that are LLaVA's and no decoder's."""
_MLP = re.compile(r"mlp(\d+)x_gelu\Z")
TAGS = ("<im_start>", "<im_end>")


def connector(config: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The `connector` section.

    Raises:
        LensmithError: a projector that Lensmith does not have.
    """
    kind = config.get("mm_projector_type", "linear")
    if kind in ("linear", "identity"):
        return {"name": kind}
    if isinstance(kind, str) and (layers := _MLP.match(kind)):
        return {"name": "mlp", "depth": int(layers[1])}
    raise LensmithError(f"{origin}: mm_projector_type {kind!r} is not linear, mlpNx_gelu or identity")


def connector_of(names: set[str], origin: str) -> dict[str, Any]:
    """The same from the names of a projector's tensors, where there is no config.

    Raises:
        LensmithError: neither of one linear layer nor of a sequence of them.
    """
    if names == {"weight", "bias"}:
        return {"name": "linear"}
    layers = sorted({int(name.split(".")[0]) for name in names if name.split(".")[0].isdigit()})
    if layers and layers == list(range(0, 2 * len(layers), 2)) and len(names) == 2 * len(layers):
        return {"name": "mlp", "depth": len(layers)}
    raise LensmithError(f"{origin}: tensors {', '.join(sorted(names))} are no linear or mlpNx_gelu projector")


def splitter(config: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The `image_splitter` section.

    Raises:
        LensmithError: a way to show pictures that Lensmith does not have.
    """
    ratio = config.get("image_aspect_ratio") or "square"
    if ratio in ("square", "pad"):
        return {"name": ratio}
    if ratio != "anyres":
        raise LensmithError(f"{origin}: image_aspect_ratio {ratio!r} is not square, pad or anyres")
    grids = config.get("image_grid_pinpoints")
    try:
        grids = ast.literal_eval(grids) if isinstance(grids, str) else grids
        grids = [[int(width), int(height)] for width, height in grids]  # type: ignore[union-attr]
    except (ValueError, SyntaxError, TypeError) as error:
        raise LensmithError(f"{origin}: image_grid_pinpoints {grids!r} is no list of [width, height]") from error
    return {"name": "anyres", "grids": grids, "merge": config.get("mm_patch_merge_type", "flat")}


def encoder(config: Mapping[str, Any], checkpoint: str, layer: int | None, origin: str) -> dict[str, Any]:
    """The `vision_encoder` section.

    Raises:
        LensmithError: features that Lensmith does not have, or no layer named.
    """
    feature = config.get("mm_vision_select_feature", "patch")
    if feature not in ("patch", "cls_patch"):
        raise LensmithError(f"{origin}: mm_vision_select_feature {feature!r} is not patch or cls_patch")
    selected = layer if layer is not None else config.get("mm_vision_select_layer")
    if not isinstance(selected, int):
        raise LensmithError(
            f"{origin} does not say which layer of the vision encoder it was trained on; say it with select_layer=-2"
            " (LLaVA's), or -1"
        )
    return {
        "name": "clip",
        "checkpoint": checkpoint,
        "select_layer": selected,
        "cls_token": feature == "cls_patch",
    }


def decoder_type(config: Mapping[str, Any], origin: str) -> str:
    """The decoder's `model_type`.

    Raises:
        LensmithError: one that Lensmith does not read from these checkpoints.
    """
    found = config.get("model_type")
    if found not in DECODERS:
        raise LensmithError(f"{origin}: model_type {found!r} is not one of {', '.join(DECODERS)}")
    return DECODERS[found]


def decoder_config(config: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """The decoder's own config.json."""
    own = {key: value for key, value in config.items() if not OWN_KEYS.match(key)}
    architecture = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}[model_type]
    return {**own, "model_type": model_type, "architectures": [architecture]}


def with_tags(config: Mapping[str, Any]) -> bool:
    """Whether `<im_start>` and `<im_end>` stand around each picture. Absent means false, as in LLaVA's own code."""
    return bool(config.get("mm_use_im_start_end", False))
