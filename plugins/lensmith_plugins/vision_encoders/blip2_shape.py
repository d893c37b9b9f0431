"""BLIP-2's vision transformer in closed form, from a config.json. No torch here."""

from __future__ import annotations

from typing import Any

from lensmith import Parameters, ParameterShape, VisionShape, linear, norm, read_config
from lensmith_plugins.vision_encoders.vit_shape import check_type, fill_in, flops

DEFAULTS: dict[str, Any] = {
    "hidden_size": 1408,
    "intermediate_size": 6144,
    "num_hidden_layers": 39,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "attention_dropout": 0.0,
    "qkv_bias": True,
}
"""What `Blip2VisionConfig` assumes where a config file says nothing: EVA's ViT-g/14."""
_TYPES = ("blip_2_vision_model", "instructblip_vision_model", "blip-2", "instructblip")


def read_architecture(source: str) -> dict[str, Any]:
    """The vision half of a BLIP-2 or InstructBLIP config: every name of `DEFAULTS` with its value.

    Args:
        source: a folder, a config.json or a hub id, of a vision model or of a whole one.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is of another family, or its sizes cannot work.
    """
    config = read_config(source)
    check_type(source, config, "blip2", _TYPES)
    return fill_in(source, config.get("vision_config", config), DEFAULTS)


def vision_shape(architecture: dict[str, Any], blocks: int, *, cls_token: bool) -> VisionShape:
    """Sizes, tensors and cost of the first `blocks` blocks."""
    side = architecture["image_size"] // architecture["patch_size"]
    width, inner = architecture["hidden_size"], architecture["intermediate_size"]
    return VisionShape(
        image_size=(architecture["image_size"], architecture["image_size"]),
        grid=(side, side),
        width=width,
        extra_tokens=int(cls_token),
        parameters=_parameters(architecture, blocks),
        flops_per_view=flops(
            patches=side * side,
            tokens=side * side + 1,
            patch_values=3 * architecture["patch_size"] ** 2,
            width=width,
            mlp_weights=2 * width * inner,
            blocks=blocks,
        ),
    )


def _parameters(architecture: dict[str, Any], blocks: int) -> Parameters:
    width, inner, patch = (architecture[name] for name in ("hidden_size", "intermediate_size", "patch_size"))
    positions = (architecture["image_size"] // patch) ** 2 + 1
    tensors: Parameters = (
        ParameterShape("network.embeddings.class_embedding", (1, 1, width)),
        ParameterShape("network.embeddings.position_embedding", (1, positions, width)),
        ParameterShape("network.embeddings.patch_embedding.weight", (width, 3, patch, patch)),
        ParameterShape("network.embeddings.patch_embedding.bias", (width,)),
    )
    for block in range(blocks):
        name = f"network.encoder.layers.{block}"
        tensors += linear(f"{name}.self_attn.qkv", width, 3 * width, bias=architecture["qkv_bias"])
        tensors += linear(f"{name}.self_attn.projection", width, width)
        tensors += norm(f"{name}.layer_norm1", width)
        tensors += linear(f"{name}.mlp.fc1", width, inner)
        tensors += linear(f"{name}.mlp.fc2", inner, width)
        tensors += norm(f"{name}.layer_norm2", width)
    return tensors
