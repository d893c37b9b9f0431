"""How many steps a stage takes, which rows they hold, and which rates they have."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lensmith import load_spec
from lensmith.data.order import NO_ROW, rows_of_steps, steps_of
from lensmith.data.sources import Mixture
from lensmith.errors import TrainingError
from lensmith.spec.run import ScheduleSpec, StageSpec
from lensmith.training.schedule import factor, require_rates, warmup


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("ratio", [0.0, 0.03, 0.5, 0.99])
@pytest.mark.parametrize("total", [1, 2, 3, 7, 100])
def test_T2_every_stage_reaches_its_peak_rate(total: int, ratio: float, decay: str) -> None:
    schedule = ScheduleSpec(warmup_ratio=ratio, decay=decay)  # type: ignore[arg-type]
    rates = [factor(schedule, step, total) for step in range(total)]
    assert max(rates) == 1.0
    assert warmup(schedule, total) < total
    assert warmup(schedule, total) <= math.ceil(ratio * total)


@pytest.mark.parametrize(("wanted", "steps"), [(1, 1), (2, 2), (3, 2), (500, 4)])
def test_T2_a_warm_up_that_takes_all_steps_is_refused(wanted: int, steps: int, spec: dict[str, Any]) -> None:
    spec["stages"]["tune"]["schedule"] = {"warmup_steps": wanted}
    stage = load_spec(spec).stages["tune"]
    if steps == wanted == 1:  # the cap leaves the only step its rate
        require_rates("stages.tune", stage, steps)
        return
    with pytest.raises(TrainingError, match=rf"stages.tune.schedule.warmup_steps: {wanted} .* the stage's {steps} "):
        require_rates("stages.tune", stage, steps)


@pytest.fixture
def mixture(tmp_path: Path) -> Any:
    """`mixture(13)`: so many rows."""

    def of(count: int) -> Mixture:
        turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
        lines = [json.dumps({"id": str(number), "conversations": turns}) for number in range(count)]
        (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
        data = {"sources": [{"path": str(tmp_path / "rows.jsonl")}], "order": "llava"}
        return Mixture(StageSpec.model_fields["data"].annotation.model_validate(data))  # type: ignore[union-attr]

    return of


def stage_of(spec: dict[str, Any], mixture: Mixture, **fields: Any) -> StageSpec:
    data = mixture.spec.model_dump(mode="json") | {"order": fields.pop("order", "llava")}
    spec["stages"] = {"tune": {"tuner": "frozen", "data": data, **fields}}
    return load_spec(spec).stages["tune"]


def trainer_steps(rows: int, batch: int, accumulation: int, epochs: float) -> int:
    """`transformers.Trainer` 4.37, `_inner_training_loop`: length of the loader over accumulation, times epochs."""
    loader = math.ceil(rows / batch)
    return math.ceil(epochs * max(loader // accumulation, 1))


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "steps"),
    [(13, 4, 4, 16), (13, 4, 1, 4), (12, 4, 4, 12), (13, 4, 1.5, 6), (13, 4, 0.5, 2), (3, 4, 2, 2), (1, 16, 3, 3)],
)
def test_T3_the_originals_number_of_steps(
    rows: int, batch: int, epochs: float, steps: int, mixture: Any, spec: dict[str, Any]
) -> None:
    mixed = mixture(rows)
    stage = stage_of(spec, mixed, batch={"size": batch}, epochs=epochs)
    assert steps_of(stage, mixed, 1) == steps == trainer_steps(rows, batch, 1, epochs)
    order = rows_of_steps(stage, mixed, steps, batch, list)
    for epoch in range(int(epochs)):
        per_epoch = math.ceil(rows / batch)
        shown = [row for step in order[epoch * per_epoch : (epoch + 1) * per_epoch] for row in step]
        assert sorted(shown) == list(range(rows))


@pytest.mark.parametrize("accumulation", [2, 3, 4])
@pytest.mark.parametrize("rows", [5, 13, 16, 17])
@pytest.mark.parametrize("epochs", [1, 3])
def test_T3_accumulation(rows: int, accumulation: int, epochs: int, mixture: Any, spec: dict[str, Any]) -> None:
    """Micro-batches follow one another over the end of an epoch, as the Trainer counts them."""
    micro = 2
    mixed = mixture(rows)
    stage = stage_of(spec, mixed, batch={"size": micro * accumulation, "micro": micro}, epochs=epochs)
    steps = steps_of(stage, mixed, accumulation)
    assert steps == trainer_steps(rows, micro, accumulation, epochs)
    order = list(rows_of_steps(stage, mixed, steps, micro, list, accumulation))
    assert all(len(step) <= micro * accumulation for step in order)
    shown = [row for step in order for row in step if row != NO_ROW]
    loader = math.ceil(rows / micro)
    whole = min(epochs, steps * accumulation // loader) if loader > accumulation else epochs
    for row in range(rows):
        assert shown.count(row) >= whole - (loader % accumulation > 0)
        assert shown.count(row) <= epochs + 1


def test_T3_our_own_shuffle_goes_through_the_epochs_without_a_break(mixture: Any, spec: dict[str, Any]) -> None:
    mixed = mixture(13)
    stage = stage_of(spec, mixed, batch={"size": 4}, epochs=4, order="shuffle")
    assert steps_of(stage, mixed, 1) == 13
    order = rows_of_steps(stage, mixed, 13, 4, list)
    shown = [row for step in order for row in step]
    assert all(shown.count(row) == 4 for row in range(13))


def test_A11_steps_are_made_when_they_are_asked_for(mixture: Any, spec: dict[str, Any]) -> None:
    mixed = mixture(13)
    for order in ("shuffle", "llava"):
        stage = stage_of(spec, mixed, batch={"size": 4}, max_steps=10**9, order=order)
        steps = rows_of_steps(stage, mixed, steps_of(stage, mixed, 1), 4, list)
        assert len(steps) == 10**9
        first, later = [steps[n] for n in range(5)], steps[1000]
        assert [steps[n] for n in range(5)] == first
        assert steps[1000] == later
