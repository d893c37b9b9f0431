"""A network of shapes alone, on which peft shows what it would add."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from lensmith import Parameters, ParameterShape
from lensmith_plugins.tuners.adapters import Injected
from lensmith_plugins.tuners.peft_config import peft_config


def added_by_peft(spec: Any, parts: dict[str, Parameters]) -> Parameters:
    """The trained tensors of a method, with `language_model.` in front.

    Args:
        spec: a `PeftSpec`.
        parts: every tensor by part.

    Raises:
        ValueError: peft refuses the config or the layers.
    """
    root = _skeleton(parts["language_model"])
    layers = [name.removeprefix("network.") for name in spec.layers(parts)]
    config = peft_config(spec, layers, root)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said again when it is done in earnest
        try:
            injected = Injected.into(root, config)
        except ValueError as error:
            raise ValueError(f"peft's {spec.method}: {error}") from error
    shapes = dict(root.named_parameters())
    return tuple(
        ParameterShape(f"language_model.network.{name}", tuple(shapes[name].shape))
        for name in injected.added
        if shapes[name].requires_grad
    )


def _skeleton(tensors: Parameters) -> nn.Module:
    """Modules with the names and linear layers of a network, on the meta device."""
    root = nn.Module()
    for tensor in tensors:
        path = tensor.name.removeprefix("network.").split(".")[:-1]
        if not (tensor.linear or tensor.head):
            continue
        here = root
        for name in path[:-1]:
            if name not in here._modules:
                here.add_module(name, nn.Module())
            here = here.get_submodule(name)
        outputs, inputs = tensor.shape
        here.add_module(path[-1], nn.Linear(inputs, outputs, bias=False, device="meta"))
    return root
