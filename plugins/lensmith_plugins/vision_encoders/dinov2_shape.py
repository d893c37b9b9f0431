"""DINOv2's vision transformer, with or without registers, in closed form from its config.json. No torch here."""

from __future__ import annotations

from typing import Any

from lensmith import Parameters, ParameterShape, Size, VisionShape, linear, norm, read_config
from lensmith_plugins.vision_encoders.vit_shape import attention, check_type, fill_in, flops

REGISTERS = "dinov2_with_registers"
PLAIN = "dinov2"

_COMMON: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "num_channels": 3,
    "qkv_bias": True,
    "layerscale_value": 1.0,
    "drop_path_rate": 0.0,
    "use_swiglu_ffn": False,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    PLAIN: {**_COMMON, "patch_size": 14},
    REGISTERS: {**_COMMON, "patch_size": 16, "num_register_tokens": 4},
}
"""What the config classes of transformers assume where a config file says nothing, by `model_type`."""


def read_architecture(source: str) -> dict[str, Any]:
    """A DINOv2 config: `model_type`, and every name of its `DEFAULTS` with its value.

    Args:
        source: a folder, a config.json or a hub id.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not DINOv2's, or its sizes cannot work.
    """
    config = read_config(source)
    model_type = check_type(source, config, "dinov2", (PLAIN, REGISTERS))
    return {"model_type": model_type, **fill_in(source, config, DEFAULTS[model_type])}


def prefix_tokens(architecture: dict[str, Any]) -> int:
    """Tokens before the patches: the class token and the registers."""
    return 1 + int(architecture.get("num_register_tokens", 0))


def vision_shape(architecture: dict[str, Any], blocks: int, view: Size, *, cls_token: bool) -> VisionShape:
    """Sizes, tensors and cost of the first `blocks` blocks.

    Args:
        architecture: see `read_architecture`.
        blocks: how many are built.
        view: (height, width) in pixels, to which the position embeddings are interpolated.
        cls_token: whether the class token is kept.
    """
    patch, width = architecture["patch_size"], architecture["hidden_size"]
    rows, columns = view[0] // patch, view[1] // patch
    inner = _inner(architecture)
    return VisionShape(
        image_size=view,
        grid=(rows, columns),
        width=width,
        extra_tokens=int(cls_token),
        parameters=_parameters(architecture, blocks),
        flops_per_view=flops(
            patches=rows * columns,
            tokens=rows * columns + prefix_tokens(architecture),
            patch_values=architecture["num_channels"] * patch**2,
            width=width,
            mlp_weights=(3 if architecture["use_swiglu_ffn"] else 2) * width * inner,
            blocks=blocks,
        ),
    )


def _inner(architecture: dict[str, Any]) -> int:
    inner = int(architecture["hidden_size"] * architecture["mlp_ratio"])
    # With a gate the MLP keeps two thirds of its width, in multiples of 8.
    return (int(inner * 2 / 3) + 7) // 8 * 8 if architecture["use_swiglu_ffn"] else inner


def _parameters(architecture: dict[str, Any], blocks: int) -> Parameters:
    width, inner = architecture["hidden_size"], _inner(architecture)
    channels, patch = architecture["num_channels"], architecture["patch_size"]
    positions = (architecture["image_size"] // patch) ** 2 + 1
    tensors: Parameters = (
        ParameterShape("network.embeddings.cls_token", (1, 1, width)),
        ParameterShape("network.embeddings.position_embeddings", (1, positions, width)),
    )
    if registers := architecture.get("num_register_tokens", 0):
        tensors += (ParameterShape("network.embeddings.register_tokens", (1, registers, width)),)
    tensors += (
        ParameterShape("network.embeddings.patch_embeddings.projection.weight", (width, channels, patch, patch)),
        ParameterShape("network.embeddings.patch_embeddings.projection.bias", (width,)),
    )
    for block in range(blocks):
        name = f"network.encoder.layer.{block}"
        tensors += norm(f"{name}.norm1", width)
        bias = architecture["qkv_bias"]
        tensors += attention(f"{name}.attention", width, "q_proj", "k_proj", "v_proj", bias=bias)
        tensors += attention(f"{name}.attention", width, "o_proj")
        tensors += (ParameterShape(f"{name}.layer_scale1.lambda1", (width,)),)
        tensors += norm(f"{name}.norm2", width)
        if architecture["use_swiglu_ffn"]:
            tensors += linear(f"{name}.mlp.gate_proj", width, inner)
            tensors += linear(f"{name}.mlp.up_proj", width, inner)
            tensors += linear(f"{name}.mlp.down_proj", inner, width)
        else:
            tensors += linear(f"{name}.mlp.fc1", width, inner)
            tensors += linear(f"{name}.mlp.fc2", inner, width)
        tensors += (ParameterShape(f"{name}.layer_scale2.lambda1", (width,)),)
    return tensors
