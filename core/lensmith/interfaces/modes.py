"""Training mode and evaluation mode of parts of which nothing, or not all, trains."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

_Norm = nn.modules.batchnorm._NormBase


def trains(module: nn.Module) -> bool:
    """Whether any parameter of a module trains."""
    return any(parameter.requires_grad for parameter in module.parameters())


def moving_statistics(part: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The norms of a part that keep running statistics of batches and whose statistics may move, by name.

    Those whose own scale and shift train; of a norm without any, where all of the part trains.
    """
    whole = all(parameter.requires_grad for parameter in part.parameters()) and trains(part)
    for name, module in part.named_modules():
        if isinstance(module, _Norm) and module.track_running_stats:
            own = list(module.parameters())
            if any(parameter.requires_grad for parameter in own) or (not own and whole):
                yield name, module


def hold_still(part: nn.Module) -> None:
    """Put every other norm with running statistics in evaluation mode, so that what does not train does not move."""
    moving = {id(module) for _, module in moving_statistics(part)}
    for module in part.modules():
        if isinstance(module, _Norm) and module.track_running_stats and id(module) not in moving:
            module.eval()
