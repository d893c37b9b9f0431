"""Linear layers in NF4 by bitsandbytes: quantised where they stand, and brought back."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from lensmith_plugins.tuners.peft_library import peft as _peft  # noqa: F401 - its notices are held back first

import bitsandbytes as bnb  # isort: skip

FOUR_BIT: type[nn.Linear] = bnb.nn.Linear4bit


def quantise(
    network: nn.Module, layers: Collection[str], *, compute: torch.dtype, double: bool
) -> dict[str, torch.Tensor]:
    """Hold linear layers of a network in NF4, each where it is.

    Args:
        network: the module.
        layers: names of its linear layers; those that are in 4 bits already stay as they are.
        compute: type that they multiply in.
        double: quantise the blocks' scales too.

    Returns:
        The weights that were quantised here, as they were, by name.
    """
    plain = {}
    for name in layers:
        module: Any = network.get_submodule(name)
        if not isinstance(module, FOUR_BIT):
            plain[f"{name}.weight"] = module.weight.detach()
            module = _quantised(module, compute, double)
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, module)
    for module in network.modules():
        if isinstance(module, FOUR_BIT):
            # bitsandbytes would repack weights in place at the first use in evaluation mode and then compute in bf16
            # whatever was asked for: answers and training would differ.
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
            module.compute_dtype, module.compute_type_is_set = compute, True  # type: ignore[assignment]
    return plain


def _quantised(linear: nn.Linear, compute: torch.dtype, double: bool) -> Any:
    bias = linear.bias is not None
    module = bnb.nn.Linear4bit(
        linear.in_features, linear.out_features, bias, compute, double, "nf4", device=torch.device("meta")
    )
    # The codes come from fp32 (see QLoraSpec).
    weight = bnb.nn.Params4bit(
        linear.weight.detach().float(), False, compress_statistics=double, quant_type="nf4", module=module
    )
    module.weight = weight.to(linear.weight.device)
    if bias:
        module.bias = linear.bias
    return module.train(linear.training)


def dequantise(network: nn.Module, dtype: torch.dtype) -> None:
    """Make ordinary linear layers of all 4-bit ones, with the weights that these stood for."""
    for name, module in list(network.named_modules()):
        if not isinstance(module, FOUR_BIT):
            continue
        weight: Any = module.weight
        whole = bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
        linear = nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
        linear.weight = nn.Parameter(whole.to(dtype).contiguous(), requires_grad=False)
        if module.bias is not None:
            linear.bias = module.bias
        parent, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, linear.train(module.training))


def rounding(network: nn.Module, plain: dict[str, torch.Tensor]) -> float:
    """How far quantised weights are from what they were, as a share of these: root mean square over all of them.

    Args:
        network: the module.
        plain: what `quantise` returned.
    """
    apart = size = 0.0
    for name, tensor in plain.items():
        weight: Any = network.get_submodule(name.removesuffix(".weight")).weight
        whole = bnb.functional.dequantize_4bit(weight.data, weight.quant_state).float()
        apart += float((whole - tensor.float()).square().sum())
        size += float(tensor.float().square().sum())
    return (apart / size) ** 0.5 if size else 0.0


def mark(network: Any, *, quantised: bool) -> None:
    """Say of a transformers network whether it is quantised: peft reads it, and saving is refused where it is."""
    network.is_loaded_in_4bit = quantised
    if not quantised:
        vars(network.config).pop("quantization_config", None)
        for attribute, value in (("hf_quantizer", None), ("is_quantized", False), ("quantization_method", None)):
            setattr(network, attribute, value)
