"""CLIP's vision transformer in closed form, from its config.json. No torch here."""

from __future__ import annotations

from typing import Any

from lensmith import Parameters, ParameterShape, VisionShape, linear, norm, read_config
from lensmith_plugins.vision_encoders.vit_shape import attention, check_type, fill_in, flops

DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "initializer_factor": 1.0,
}
"""What `CLIPVisionConfig` assumes where a config file says nothing."""


def read_architecture(source: str) -> dict[str, Any]:
    """The vision half of a CLIP config: every name of `DEFAULTS` with its value.

    Args:
        source: a folder, a config.json or a hub id, of a vision model or a full CLIP model.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not CLIP's, or its sizes cannot work.
    """
    config = read_config(source)
    check_type(source, config, "clip", ("clip", "clip_vision_model"))
    vision = config
    if config.get("vision_config_dict"):  # the first CLIP configs say the vision half twice, and this one counts
        vision = config["vision_config_dict"]
    elif "vision_config" in config or config.get("model_type") == "clip":
        vision = config.get("vision_config") or {}
    return fill_in(source, vision, DEFAULTS)


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
            patch_values=architecture["num_channels"] * architecture["patch_size"] ** 2,
            width=width,
            mlp_weights=2 * width * inner,
            blocks=blocks,
        ),
    )


def _parameters(architecture: dict[str, Any], blocks: int) -> Parameters:
    width, inner = architecture["hidden_size"], architecture["intermediate_size"]
    channels, patch = architecture["num_channels"], architecture["patch_size"]
    positions = (architecture["image_size"] // patch) ** 2 + 1
    tensors: Parameters = (
        ParameterShape("network.embeddings.class_embedding", (width,)),
        ParameterShape("network.embeddings.patch_embedding.weight", (width, channels, patch, patch)),
        ParameterShape("network.embeddings.position_embedding.weight", (positions, width)),
        *norm("network.pre_layrnorm", width),  # spelt like this in every CLIP checkpoint
    )
    for block in range(blocks):
        name = f"network.encoder.layers.{block}"
        tensors += attention(f"{name}.self_attn", width, "k_proj", "v_proj", "q_proj", "out_proj")
        tensors += norm(f"{name}.layer_norm1", width)
        tensors += linear(f"{name}.mlp.fc1", width, inner)
        tensors += linear(f"{name}.mlp.fc2", inner, width)
        tensors += norm(f"{name}.layer_norm2", width)
    return tensors
