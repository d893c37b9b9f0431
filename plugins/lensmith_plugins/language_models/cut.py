"""A network's first blocks only, and a look at whether they are the same in a network that has no others."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from lensmith_plugins.language_models.cut_config import per_layer, refuse_more
from lensmith_plugins.language_models.exactness import TESTED

_LENGTH = 7
_PLAIN = (bool, int, float, str, type(None))


def cut(config: Any, layers: int | None, source: str) -> Any:
    """A transformers config with the first `layers` blocks; the config itself where that is all.

    Raises:
        ValueError: there are fewer blocks, the architecture does not say how many there are, or it builds its blocks
            otherwise where there are fewer; names the architecture.
    """
    if layers is None:
        return config
    text = config.get_text_config()
    there = getattr(text, "num_hidden_layers", None)
    if not isinstance(there, int):
        raise ValueError(f"{source}: {_refusal(config)}: its config does not say how many blocks there are")
    refuse_more(layers, there, source)
    if layers == there:
        return config
    short = copy.deepcopy(config)
    text = short.get_text_config()
    for name, kept in per_layer(vars(text), there, layers).items():
        setattr(text, name, kept)
    text.num_hidden_layers = layers
    if reason := _difference(config, short, there, layers):
        raise ValueError(f"{source}: {_refusal(config)}: {reason}")
    return short


@torch.no_grad()
def check_cut(network: Any, config: Any, source: str) -> None:
    """Compare a cut network with the whole one whose blocks past the cut are taken out, on a few ids.

    Args:
        network: with its weights, of a config that `cut` made.
        config: the whole one's.
        source: for messages.

    Raises:
        ValueError: they differ, as where a residual's scale follows the number of blocks; names the architecture.
    """
    weight = network.get_input_embeddings().weight
    kept, there = (c.get_text_config().num_hidden_layers for c in (network.config, config))
    architecture = str(config.get_text_config().model_type)
    if kept == there or architecture in TESTED or weight.device.type == "meta":
        return
    whole = _skeleton(config, network.dtype)
    whole.load_state_dict(network.state_dict(), strict=False, assign=True)
    for name, buffer in network.named_buffers():
        owner, _, leaf = name.rpartition(".")
        whole.get_submodule(owner)._buffers[leaf] = buffer
    place, blocks = _blocks(whole, there)[0]
    owner, _, leaf = place.rpartition(".")
    setattr(whole.get_submodule(owner), leaf, blocks[:kept])
    ids = torch.arange(3, 3 + _LENGTH, device=weight.device)[None] % len(weight)
    training = network.training
    network.eval()
    try:
        ours, theirs = (n(input_ids=ids, use_cache=False).logits for n in (network, whole.eval()))
    finally:
        network.train(training)
    if not torch.equal(ours, theirs):
        raise ValueError(f"{source}: {_refusal(config)}: what a block computes depends on how many there are")


def _refusal(config: Any) -> str:
    return f"{config.get_text_config().model_type!r} models cannot be cut by `layers`"


def _difference(config: Any, short: Any, there: int, layers: int) -> str:
    """In what the two networks differ but for the blocks that are left out; empty where in nothing."""
    whole, cut_short = (_skeleton(c, torch.float32) for c in (config, short))
    found, kept = _blocks(whole, there), _blocks(cut_short, layers)
    if len(found) != 1 or [place for place, _ in kept if place == found[0][0]] != [found[0][0]]:
        return "transformers does not say which of its modules are the blocks"
    place, blocks = found[0]
    for number in range(layers):
        ours = _facts(cut_short.get_submodule(f"{place}.{number}"))
        if different := _first_difference(ours, _facts(blocks[number])):
            return f"block {number} is built otherwise where there are fewer ({different})"
    ours, theirs = (
        {name: tuple(t.shape) for name, t in n.state_dict().items() if not name.startswith(f"{place}.")}
        for n in (cut_short, whole)
    )
    different = _first_difference(ours, theirs)
    return f"what is around its blocks depends on how many there are ({different})" if different else ""


def _skeleton(config: Any, dtype: torch.dtype) -> Any:
    """The modules without weights."""
    config = copy.deepcopy(config)
    vars(config).pop("quantization_config", None)
    with torch.device("meta"), no_init_weights():
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def _blocks(network: Any, count: int) -> list[tuple[str, nn.ModuleList]]:
    """Lists of so many modules that stand in the decoder itself, by their places in the network."""
    decoder = network.get_decoder()
    prefix = next(name for name, module in network.named_modules() if module is decoder)
    return [
        (f"{prefix}.{name}".removeprefix("."), module)
        for name, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and name.count(".") <= 1
    ]


def _facts(block: nn.Module) -> dict[str, Any]:
    """What can be told of a block without running it: its modules' types and plain attributes, its tensors' shapes."""
    facts: dict[str, Any] = {name: tuple(tensor.shape) for name, tensor in block.state_dict().items()}
    for place, module in block.named_modules():
        facts[f"{place}:"] = type(module).__name__
        facts |= {
            f"{place}.{name}".removeprefix("."): value
            for name, value in vars(module).items()
            if isinstance(value, _PLAIN) and not name.startswith("_")
        }
    return facts


def _first_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    return differing[0] if differing else ""
