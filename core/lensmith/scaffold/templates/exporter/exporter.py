"""From an artifact to the files of the format, and back for the proof. Imported when something is exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lensmith import Exporter, LensmithError
from lensmith.conversion.stored import read, write_file
from lensmith.files import write_json
from lensmith.merging import logits

if TYPE_CHECKING:
    from torch import Tensor

    from lensmith.conversion.held import Held
    from lensmith.conversion.probes import Probe

_PARTS = ("connector", "image_splitter")
"""Parts that are written whole; a splitter has weights where it learns a row end."""


class ExamplePartExporter(Exporter):
    """See `ExamplePartSpec`."""

    def write(self, held: Held, folder: Path) -> Sequence[str]:
        """Fill an empty folder; tensors go through one at a time (`Stored`)."""
        for part in ("vision_encoder", "language_model"):
            if held.holds(part):
                raise LensmithError(f"the {part} was trained, and the format holds the connector alone")
        for part in _PARTS:
            if tensors := held.small(part):
                write_file(folder / f"{part}.safetensors", tensors)
        write_json(folder / "config.json", {"format": "example_part", "model": held.spec.model_dump(mode="json")})
        return ["the vision encoder and the language model are named in config.json, not written"]

    def logits(self, held: Held, folder: Path, probes: Sequence[Probe]) -> list[Tensor]:
        """Answers of what was written: the parts are those of the files, so that a mistake in them shows."""
        model = held.model()
        for part in _PARTS:
            file = folder / f"{part}.safetensors"
            if file.is_file():
                tensors = {name: stored.load().to(held.dtype) for name, stored in read(file).items()}
                getattr(model, part).load_state_dict(tensors, assign=True)
        return logits(model, [probe.sample for probe in probes])
