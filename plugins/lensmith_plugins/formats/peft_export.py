"""The adapters alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from lensmith import Exporter
from lensmith.conversion.held import Held
from lensmith.conversion.probes import Probe
from lensmith.merging import logits
from lensmith_plugins.formats.adapters import adapted_model, copy_adapters


class PeftExporter(Exporter):
    """Writes what `PeftModel.from_pretrained` reads onto the language model's base."""

    def write(self, held: Held, folder: Path) -> Sequence[str]:
        """See `Exporter.write`."""
        copy_adapters(held, folder)
        return [
            f"for the language model {held.recorded('language_model', 'checkpoint')}; the connector, without which it"
            " sees nothing, is not in PEFT's format"
        ]

    def logits(self, held: Held, folder: Path, probes: Sequence[Probe]) -> list[Tensor]:
        """Through PEFT. See `Exporter.logits`."""
        return logits(adapted_model(held, folder), [probe.sample for probe in probes])
