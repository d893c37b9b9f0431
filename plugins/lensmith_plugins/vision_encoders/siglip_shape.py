"""SigLIP's vision transformer in closed form, from its config.json. No torch here."""

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
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "attention_dropout": 0.0,
}
"""What `SiglipVisionConfig` assumes where a config file says nothing."""

_NAFLEX = ("siglip2", "siglip2_vision_model")


def read_architecture(source: str) -> dict[str, Any]:
    """The vision half of a SigLIP config: every name of `DEFAULTS` with its value.

    Args:
        source: a folder, a config.json or a hub id, of a vision model or a full SigLIP or SigLIP 2 model.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not SigLIP's, is of SigLIP 2's variable resolution, or its sizes cannot work.
    """
    config = read_config(source)
    if config.get("model_type") in _NAFLEX:
        raise ValueError(
            f"{source}: is a SigLIP 2 of variable resolution (NaFlex), whose number of tokens depends on the picture;"
            " take a SigLIP 2 of one resolution, e.g. google/siglip2-so400m-patch14-384"
        )
    check_type(source, config, "siglip", ("siglip", "siglip_vision_model"))
    whole = "vision_config" in config or config.get("model_type") == "siglip"
    return fill_in(source, (config.get("vision_config") or {}) if whole else config, DEFAULTS)


def vision_shape(architecture: dict[str, Any], blocks: int) -> VisionShape:
    """Sizes, tensors and cost of the first `blocks` blocks."""
    side = architecture["image_size"] // architecture["patch_size"]
    width, inner = architecture["hidden_size"], architecture["intermediate_size"]
    return VisionShape(
        image_size=(architecture["image_size"], architecture["image_size"]),
        grid=(side, side),
        width=width,
        parameters=_parameters(architecture, blocks),
        flops_per_view=flops(
            patches=side * side,
            tokens=side * side,
            patch_values=architecture["num_channels"] * architecture["patch_size"] ** 2,
            width=width,
            mlp_weights=2 * width * inner,
            blocks=blocks,
        ),
    )


def _parameters(architecture: dict[str, Any], blocks: int) -> Parameters:
    width, inner = architecture["hidden_size"], architecture["intermediate_size"]
    channels, patch = architecture["num_channels"], architecture["patch_size"]
    positions = (architecture["image_size"] // patch) ** 2
    tensors: Parameters = (
        ParameterShape("network.embeddings.patch_embedding.weight", (width, channels, patch, patch)),
        ParameterShape("network.embeddings.patch_embedding.bias", (width,)),
        ParameterShape("network.embeddings.position_embedding.weight", (positions, width)),
    )
    for block in range(blocks):
        name = f"network.encoder.layers.{block}"
        tensors += norm(f"{name}.layer_norm1", width)
        tensors += attention(f"{name}.self_attn", width, "k_proj", "v_proj", "q_proj", "out_proj")
        tensors += norm(f"{name}.layer_norm2", width)
        tensors += linear(f"{name}.mlp.fc1", width, inner)
        tensors += linear(f"{name}.mlp.fc2", inner, width)
    return tensors
