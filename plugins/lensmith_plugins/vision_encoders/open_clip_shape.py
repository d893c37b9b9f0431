"""The vision transformers of open_clip in closed form, from its JSON configs. No torch here.

The configs are read as files, because importing the package imports torch.
"""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path
from typing import Any

from lensmith import Parameters, ParameterShape, Size, VisionShape, linear, norm
from lensmith.io.json import read_object
from lensmith_plugins.vision_encoders.vit_shape import flops

_CUSTOM_BLOCKS = ("block_type", "qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn")
_DEFAULTS = {"layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224}
"""What `open_clip.model.CLIPVisionCfg` assumes where a config says nothing."""


def packaged_config(model: str) -> dict[str, Any]:
    """The config of a model that open_clip ships.

    Raises:
        ValueError: open_clip is not installed, or has no such model; close names are told.
    """
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise ValueError("the open_clip encoder needs the package open_clip_torch: pip install open_clip_torch")
    folder = Path(package.origin).parent / "model_configs"
    names = sorted(file.stem for file in folder.glob("*.json"))
    if model not in names:
        close = difflib.get_close_matches(model, names, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else f"; it has {', '.join(names)}"
        raise ValueError(f"open_clip has no model {model!r}{hint}")
    return read_object(folder / f"{model}.json")


def read_vision(source: str, config: dict[str, Any]) -> dict[str, Any]:
    """The image tower's part of a model config, defaults filled in.

    Args:
        source: what the config is of, for messages.
        config: with `embed_dim`, `vision_cfg`, …

    Raises:
        ValueError: the tower is not a vision transformer of open_clip's own, with what to use instead.
    """
    vision = {**_DEFAULTS, **config.get("vision_cfg", {})}
    if name := vision.get("timm_model_name"):
        raise ValueError(f"{source}: its image tower is timm's; use the timm encoder, model: {name}")
    if not isinstance(vision["layers"], int):
        raise ValueError(
            f"{source}: its image tower is a ResNet, not a transformer; use the timm encoder, e.g. model: resnet50_clip"
        )
    if custom := [name for name in (*_CUSTOM_BLOCKS, "scale_fc") if vision.get(name)]:
        raise ValueError(f"{source}: transformer blocks with {', '.join(custom)} are not supported")
    return vision


def vision_shape(vision: dict[str, Any], blocks: int, *, cls_token: bool) -> VisionShape:
    """Sizes, tensors and cost of the first `blocks` blocks of a tower (see `read_vision`)."""
    height, width = pair(vision["image_size"])
    rows, columns = _grid(vision)
    patch = pair(vision["patch_size"])
    inner = int(vision["width"] * vision["mlp_ratio"])
    return VisionShape(
        image_size=(height, width),
        grid=(rows, columns),
        width=vision["width"],
        extra_tokens=int(cls_token),
        parameters=_parameters(vision, blocks, inner),
        flops_per_view=flops(
            patches=rows * columns,
            tokens=rows * columns + 1,
            patch_values=3 * patch[0] * patch[1],
            width=vision["width"],
            mlp_weights=2 * vision["width"] * inner,
            blocks=blocks,
        ),
    )


def pair(size: Any) -> Size:
    """A size that is one number or two."""
    height, width = (size, size) if isinstance(size, int) else size
    return (int(height), int(width))


def _grid(vision: dict[str, Any]) -> Size:
    (height, width), (rows, columns) = pair(vision["image_size"]), pair(vision["patch_size"])
    return (height // rows, width // columns)


def _parameters(vision: dict[str, Any], blocks: int, inner: int) -> Parameters:
    width, (rows, columns) = vision["width"], _grid(vision)
    scaled = vision.get("ls_init_value") is not None
    tensors: Parameters = (
        ParameterShape("network.class_embedding", (width,)),
        ParameterShape("network.positional_embedding", (rows * columns + 1, width)),
        ParameterShape("network.conv1.weight", (width, 3, *pair(vision["patch_size"]))),
    )
    if not vision.get("no_ln_pre"):
        tensors += norm("network.ln_pre", width)
    for block in range(blocks):
        name = f"network.transformer.resblocks.{block}"
        tensors += norm(f"{name}.ln_1", width)
        tensors += (
            ParameterShape(f"{name}.attn.in_proj_weight", (3 * width, width)),
            ParameterShape(f"{name}.attn.in_proj_bias", (3 * width,)),
        )
        tensors += linear(f"{name}.attn.out_proj", width, width, adaptable=False)  # read, never called
        if scaled:
            tensors += (ParameterShape(f"{name}.ls_1.gamma", (width,)),)
        tensors += norm(f"{name}.ln_2", width)
        tensors += linear(f"{name}.mlp.c_fc", width, inner)
        tensors += linear(f"{name}.mlp.c_proj", inner, width)
        if scaled:
            tensors += (ParameterShape(f"{name}.ls_2.gamma", (width,)),)
    return tensors
