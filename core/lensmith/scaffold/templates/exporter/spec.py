"""What the format cannot express, and what may be chosen. Every command imports this: no torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lensmith import ExporterSpec, Problem, TunerSpec

if TYPE_CHECKING:
    from lensmith.spec.run import ModelSpec


class ExamplePartSpec(ExporterSpec):
    """A folder with `config.json`, which names the parts, and connector and splitter as `PART.safetensors`."""

    def refusals(self, model: ModelSpec, tuner: TunerSpec | None, *, merge: bool | None) -> Sequence[Problem]:
        """Told from the specs alone, before a weight is read."""
        name = getattr(tuner, "name", "frozen")
        if name != "frozen":
            return [Problem("tuner", f"{name} trains more than connector and splitter, which are all that is written")]
        return []
