"""LLaVA's trained projectors, by the names in its files."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

_MARK = "mm_projector."


def read_projector(path: Path) -> dict[str, Tensor]:
    """The tensors of a projector.

    Args:
        path: a .safetensors file, or one that `torch.save` wrote (only tensors are read from it). Of names that hold
            `mm_projector.` the text after it counts, and other tensors are left aside; where no name holds it, all
            tensors by their own names, as an artifact's connector.safetensors has them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or holds something else than tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; `checkpoint` names LLaVA's mm_projector.bin or a .safetensors file"
        )
    try:
        if path.suffix == ".safetensors":
            stored = load_file(path)
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path}: its weights cannot be read: {reason}") from error
    if not isinstance(stored, Mapping) or not all(isinstance(tensor, Tensor) for tensor in stored.values()):
        raise ValueError(f"{path} does not hold tensors by name; give LLaVA's mm_projector.bin or a .safetensors file")
    marked = {name.partition(_MARK)[2]: tensor for name, tensor in stored.items() if _MARK in name}
    return marked or dict(stored)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], origin: str, cure: str) -> None:
    """Load all tensors of a module, in its own floating type.

    Raises:
        ValueError: tensors that are missing, unexpected or of another shape, by name.
    """
    own = module.state_dict()
    problems = []
    if missing := sorted(own.keys() - tensors.keys()):
        problems.append(f"missing {', '.join(missing)}")
    if unexpected := sorted(tensors.keys() - own.keys()):
        problems.append(f"unexpected {', '.join(unexpected)}")
    misshapen = sorted(name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape)
    if misshapen:
        told = (f"{name} is {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}" for name in misshapen)
        problems.append(f"misshapen: {', '.join(told)}")
    if problems:
        raise ValueError(f"{origin} does not fit the connector: {'; '.join(problems)}; {cure}")
    module.load_state_dict(dict(tensors))
