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

_WEIGHTS = "connector.safetensors"


class ExamplePartExporter(Exporter):
    """See `ExamplePartSpec`."""

    def write(self, held: Held, folder: Path) -> Sequence[str]:
        """Fill an empty folder; tensors go through one at a time (`Stored`)."""
        for part in ("vision_encoder", "language_model"):
            if held.holds(part):
                raise LensmithError(f"the {part} was trained, and the format holds the connector alone")
        write_file(folder / _WEIGHTS, held.small("connector"))
        write_json(folder / "config.json", {"format": "example_part", "model": held.spec.model_dump(mode="json")})
        return ["the vision encoder and the language model are named in config.json, not written"]

    def logits(self, held: Held, folder: Path, probes: Sequence[Probe]) -> list[Tensor]:
        """Answers of what was written: the connector is that of the files, so that a mistake in them shows."""
        model = held.model()
        tensors = {name: stored.load().to(held.dtype) for name, stored in read(folder / _WEIGHTS).items()}
        model.connector.load_state_dict(tensors, assign=True)
        return logits(model, [probe.sample for probe in probes])
