"""A run whose numbers are finite no more: nothing of it is saved, and the user is told from what to go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lensmith.errors import TrainingError
from lensmith.training import distributed

if TYPE_CHECKING:
    from lensmith.training.engine import Engine


class Diverged(TrainingError):
    """Weights, optimiser state or loss are not finite; the stage adds from where to go on."""


def require_finite(engine: Engine, step: int) -> None:
    """Look at weights, optimiser state and loss before they are saved. All ranks call it together.

    Raises:
        Diverged: on every rank, where something of any rank is not finite.
    """
    found = distributed.all_agree(engine.unfit())
    if found:
        told = "; ".join(dict.fromkeys(found))
        raise Diverged(f"after step {step} not all is finite in {told}; nothing of it was saved")


def cure(stage: str, lr: float, last_good: Path | None, checkpoints: Path | None, *, resumes: bool) -> str:
    """What to do, one line.

    Args:
        stage: its name.
        lr: its peak learning rate.
        last_good: the newest checkpoint of the stage that is whole and finite, if there is any.
        checkpoints: the folder of its checkpoints, if there are any.
        resumes: whether the run's folder holds a finished stage.
    """
    lower = f"lower stages.{stage}.lr (it is {lr:g}), warm up longer or set stages.{stage}.gradient_clipping, and"
    if last_good is not None:
        return (
            f"{lower} go on from the last good checkpoint's weights with start_from: {last_good} and another --output,"
            f" or train the stage anew after deleting {checkpoints}"
        )
    if checkpoints is not None:
        return f"{lower} train the stage anew after deleting {checkpoints}, none of which is good"
    return f"{lower} {'go on with --resume' if resumes else 'start again'}"
