"""The tuner's parameter groups as an optimiser of torch or bitsandbytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lensmith.errors import TrainingError
from lensmith.interfaces.tuner import ParameterGroup
from lensmith.spec.run import StageSpec
from lensmith.training.hardware import accelerator


def build_optimizer(model: nn.Module, groups: Sequence[ParameterGroup], stage: StageSpec) -> torch.optim.Optimizer:
    """The stage's optimiser over the groups; biases and norms of each go without weight decay.

    Each torch group carries `peak_lr`, from which the loop computes the step's rate, and `name`.

    Raises:
        TrainingError: the groups do not cover exactly the parameters that train.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    named = [name for group in groups for name in group.names]
    doubled = sorted({name for name in named if named.count(name) > 1}) if len(set(named)) < len(named) else []
    left_out, unknown = sorted(trained.keys() - set(named)), sorted(set(named) - trained.keys())
    if doubled or left_out or unknown:
        raise TrainingError(
            "the tuner's parameter groups are not what trains:"
            f" twice {doubled[:3]}, left out {left_out[:3]}, not training {unknown[:3]}"
        )
    undecayed = _undecayed(model)
    entries = []
    for group in groups:
        lr = group.lr if group.lr is not None else stage.lr
        decay = group.weight_decay if group.weight_decay is not None else stage.optimizer.weight_decay
        for suffix, weight_decay, names in (
            ("", decay, [n for n in group.names if n not in undecayed]),
            (" (no decay)", 0.0, [n for n in group.names if n in undecayed]),
        ):
            if names:
                params = [trained[name] for name in names]
                entries.append(
                    {
                        "params": params,
                        "lr": lr,
                        "peak_lr": lr,
                        "weight_decay": weight_decay,
                        "name": group.name + suffix,
                    }
                )
    return _optimizer(entries, stage)


def _optimizer(groups: list[dict[str, Any]], stage: StageSpec) -> torch.optim.Optimizer:
    spec = stage.optimizer
    if spec.name == "sgd":
        return torch.optim.SGD(groups, lr=stage.lr, momentum=spec.momentum)
    if spec.name == "adafactor":
        return torch.optim.Adafactor(groups, lr=stage.lr)
    if spec.name == "adamw":
        # On the CPU, where an offloaded step is too, one pass over memory instead of ten is what counts.
        fused = True if stage.deepspeed.offload_optimizer or accelerator().type == "cpu" else None
        return torch.optim.AdamW(groups, betas=spec.betas, eps=spec.eps, fused=fused)
    import bitsandbytes as bnb

    chosen = {
        "adamw_8bit": bnb.optim.AdamW8bit,
        "paged_adamw": bnb.optim.PagedAdamW,
        "paged_adamw_8bit": bnb.optim.PagedAdamW8bit,
    }
    made: torch.optim.Optimizer = chosen[spec.name](groups, betas=spec.betas, eps=spec.eps)
    return made


def _undecayed(model: nn.Module) -> set[str]:
    names = {name for name, parameter in model.named_parameters() if name.endswith("bias") or parameter.ndim < 2}
    for prefix, module in model.named_modules():
        if "norm" in type(module).__name__.lower():
            names |= {f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)}
    return names
