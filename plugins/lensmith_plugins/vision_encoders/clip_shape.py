"""CLIP's vision transformer in closed form, from its config.json. No torch here."""

from __future__ import annotations

from typing import Any

from lensmith import Parameters, ParameterShape, VisionShape, linear, norm, read_config

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

_SIZES = tuple(name for name, default in DEFAULTS.items() if isinstance(default, int))
_MODEL_TYPES = ("clip", "clip_vision_model")


def read_architecture(source: str) -> dict[str, Any]:
    """The vision half of a CLIP config: every name of `DEFAULTS` with its value.

    Args:
        source: a folder, a config.json or a hub id, of a vision model or a full CLIP model.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not CLIP's, or its sizes cannot work.
    """
    config = read_config(source)
    if config.get("model_type", "clip") not in _MODEL_TYPES:
        raise ValueError(
            f"{source}: its config is of a {config['model_type']!r} model;"
            f" the clip encoder reads {' and '.join(_MODEL_TYPES)}"
        )
    vision = config
    if config.get("vision_config_dict"):  # the first CLIP configs say the vision half twice, and this one counts
        vision = config["vision_config_dict"]
    elif "vision_config" in config or config.get("model_type") == "clip":
        vision = config.get("vision_config") or {}
    architecture = {name: vision.get(name, default) for name, default in DEFAULTS.items()}
    for name in _SIZES:
        if not isinstance(architecture[name], int) or architecture[name] < 1:
            raise ValueError(f"{source}: {name} must be a whole number above 0, not {architecture[name]!r}")
    if architecture["hidden_size"] % architecture["num_attention_heads"]:
        raise ValueError(
            f"{source}: hidden_size {architecture['hidden_size']} is not a multiple of"
            f" num_attention_heads {architecture['num_attention_heads']}"
        )
    if architecture["patch_size"] > architecture["image_size"]:
        raise ValueError(
            f"{source}: patch_size {architecture['patch_size']} is larger than image_size {architecture['image_size']}"
        )
    return architecture


def blocks_before(select_layer: int, layers: int) -> int:
    """Number of blocks that yield hidden state `select_layer` of `layers` + 1.

    Raises:
        ValueError: there is no such hidden state.
    """
    if not -(layers + 1) <= select_layer <= layers:
        raise ValueError(
            f"select_layer {select_layer} is not in this encoder of {layers} layers;"
            f" it may be {-(layers + 1)} to {layers} (0 is the embedding, {layers} or -1 the last block's output)"
        )
    return select_layer % (layers + 1)


def vision_shape(architecture: dict[str, Any], blocks: int, *, cls_token: bool) -> VisionShape:
    """Sizes, tensors and cost of the first `blocks` blocks."""
    side = architecture["image_size"] // architecture["patch_size"]
    return VisionShape(
        image_size=(architecture["image_size"], architecture["image_size"]),
        grid=(side, side),
        width=architecture["hidden_size"],
        extra_tokens=int(cls_token),
        parameters=_parameters(architecture, blocks),
        flops_per_view=_flops(architecture, blocks),
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
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            tensors += linear(f"{name}.self_attn.{projection}", width, width)
        tensors += norm(f"{name}.layer_norm1", width)
        tensors += linear(f"{name}.mlp.fc1", width, inner)
        tensors += linear(f"{name}.mlp.fc2", inner, width)
        tensors += norm(f"{name}.layer_norm2", width)
    return tensors


def _flops(architecture: dict[str, Any], blocks: int) -> int:
    """Matrix products only, as torch's own counter does: norms and activations are small beside them."""
    width, inner = architecture["hidden_size"], architecture["intermediate_size"]
    patches = (architecture["image_size"] // architecture["patch_size"]) ** 2
    tokens = patches + 1
    embedding = patches * architecture["num_channels"] * architecture["patch_size"] ** 2 * width
    projections = tokens * width * (4 * width + 2 * inner)
    attention = 2 * tokens * tokens * width
    return int(2 * (embedding + blocks * (projections + attention)))
