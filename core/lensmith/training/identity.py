"""What of a spec a checkpoint or artifact was made with, and what of it may be otherwise when a run goes on."""

from __future__ import annotations

from typing import Any

from lensmith.dims import LARGE_PARTS, SMALL_PARTS
from lensmith.errors import SpecError
from lensmith.spec.build import load_spec
from lensmith.spec.run import ModelSpec, RunSpec, StageSpec


def identity(spec: RunSpec, name: str, stage: StageSpec) -> dict[str, Any]:
    """What must not change between a checkpoint and its continuation."""
    dumped = stage.model_dump(mode="json", exclude={"checkpoints": True, "cache": True, "data": {"workers"}})
    start = str(spec.start_from) if spec.start_from is not None else None
    return {"name": name, "spec": dumped, "model": spec.model.model_dump(mode="json"), "start_from": start}


GOES_ON = ("spec.epochs", "spec.max_steps")
"""What may grow while a stage is not finished: the steps that are done are those of any number of them. The schedule is
laid out for the new number."""


def may_change(stage: StageSpec) -> list[str]:
    """Fields that a checkpoint's continuation may have otherwise: how a step is computed, not what it computes."""
    free = ["spec.activation_checkpointing", "spec.compile"]
    if stage.loss == "tokens":
        free.append("spec.batch.packing")
        if stage.data.order == "shuffle":  # the original's orders depend on the micro-batch
            free.append("spec.batch.micro")
    return free


def as_now(stored: dict[str, Any]) -> dict[str, Any]:
    """The record of a stage with the fields that came after it was written, at their defaults."""
    try:
        spec = load_spec({"model": stored["model"], "stages": {stored["name"]: stored["spec"]}})
    except (KeyError, SpecError):  # as it is, it differs, and the message says in what
        return stored
    return {**identity(spec, stored["name"], spec.stages[stored["name"]]), "start_from": stored.get("start_from")}


def different_parts(theirs: dict[str, Any], ours: ModelSpec) -> list[str]:
    """Fields in which the parts of an artifact differ from a spec's, but for where weights are."""
    different = []
    for kind in (*SMALL_PARTS, *LARGE_PARTS):
        part, stored = getattr(ours, kind), dict(theirs[kind])
        wanted = part.model_dump(mode="json")
        if hasattr(part, "sources"):
            same_part = stored.get("name") == wanted.get("name")
            places = {*part.sources(), *(type(part).model_validate(stored).sources() if same_part else ())}
            stored, wanted = ({k: v for k, v in d.items() if k not in places} for d in (stored, wanted))
        different += [f"model.{kind}.{k}" for k in sorted(stored | wanted) if stored.get(k) != wanted.get(k)]
    return different
