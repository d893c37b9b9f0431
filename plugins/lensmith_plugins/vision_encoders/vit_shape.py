"""What the closed forms of vision transformers share: reading a config, layers, cost. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lensmith import Parameters, linear


def fill_in(source: str, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Every name of `defaults` with the config's value, else the default.

    Args:
        source: where the config is from, for messages.
        config: the sizes that a file gives.
        defaults: what is assumed where it says nothing; whole numbers among them must stay so.

    Raises:
        ValueError: the sizes cannot work.
    """
    architecture = {name: config.get(name, default) for name, default in defaults.items()}
    for name, default in defaults.items():
        value = architecture[name]
        if type(default) is int and (type(value) is not int or value < 1):
            raise ValueError(f"{source}: {name} must be a whole number above 0, not {value!r}")
    width, heads = architecture["hidden_size"], architecture["num_attention_heads"]
    if width % heads:
        raise ValueError(f"{source}: hidden_size {width} is not a multiple of num_attention_heads {heads}")
    if architecture["patch_size"] > architecture["image_size"]:
        raise ValueError(
            f"{source}: patch_size {architecture['patch_size']} is larger than image_size {architecture['image_size']}"
        )
    return architecture


def check_type(source: str, config: Mapping[str, Any], encoder: str, model_types: tuple[str, ...]) -> str:
    """The config's `model_type`, the first of `model_types` where it has none.

    Raises:
        ValueError: it is of another family.
    """
    found = config.get("model_type") or model_types[0]
    if found not in model_types:
        raise ValueError(
            f"{source}: its config is of a {found!r} model; the {encoder} encoder reads {' and '.join(model_types)}"
        )
    return str(found)


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


def attention(name: str, width: int, *projections: str, bias: bool = True) -> Parameters:
    """Square linear layers of an attention, in the module's order."""
    tensors: Parameters = ()
    for projection in projections:
        tensors += linear(f"{name}.{projection}", width, width, bias=bias)
    return tensors


def flops(*, patches: int, tokens: int, patch_values: int, width: int, mlp_weights: int, blocks: int) -> int:
    """Operations of one view: matrix products only, as torch's own counter does; norms are small beside them.

    Args:
        patches: of the picture.
        tokens: patches, class token and registers, all that the blocks see.
        patch_values: numbers in one patch, channels x rows x columns.
        width: W.
        mlp_weights: elements of the weights of one block's MLP.
        blocks: that are run.
    """
    embedding = patches * patch_values * width
    projections = tokens * (4 * width * width + mlp_weights)
    scores = 2 * tokens * tokens * width
    return int(2 * (embedding + blocks * (projections + scores)))
