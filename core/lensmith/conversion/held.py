"""An artifact as an exporter sees it: specs, files, and the parts that only building them yields."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.conversion.stored import Stored, read

if TYPE_CHECKING:
    import torch

    from lensmith.artifacts import Manifest
    from lensmith.interfaces.specs import TunerSpec
    from lensmith.model import MultimodalModel
    from lensmith.spec.run import ModelSpec


@dataclass
class Held:
    """What is to be exported.

    Args:
        manifest: of the artifact.
        spec: its parts; those that it holds in full are read from its folder.
        tuner: the spec of what made its adapters, None where it has none.
        dtype: floating type of the exported weights.
        scratch: an empty folder beside the output, deleted in the end.
        overrides: where bases have moved.
    """

    manifest: Manifest
    spec: ModelSpec
    tuner: TunerSpec | None
    dtype: torch.dtype
    scratch: Path
    overrides: Sequence[str] = ()
    _rewritten: dict[str, Path] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The artifact's."""
        return self.manifest.folder

    def holds(self, part: str) -> bool:
        """Whether a large part's weights are the artifact's own, not those of a base."""
        return part in self.manifest.data["weights"]

    def recorded(self, part: str, name: str) -> Any:
        """A field of a part as the manifest has it, so the base's place also where the artifact holds the part."""
        return self.manifest.data["model"][part].get(name)

    def base(self, part: str) -> str | None:
        """Where a large part came from: what an import was made of, else the checkpoint that the manifest names."""
        bases: dict[str, str] = self.manifest.data.get("imported", {}).get("bases", {})
        return bases.get(part) or self.recorded(part, "checkpoint")

    def small(self, part: str) -> dict[str, Stored]:
        """Tensors of the connector or the splitter, by their own names."""
        file = self.folder / f"{part}.safetensors"
        return read(file) if file.is_file() else {}

    def model(self) -> MultimodalModel:
        """The artifact's model, loaded; weights of the exported type are pages of their files."""
        from lensmith.loading import restore

        loaded, _ = restore(self.manifest, dtype=self.dtype, overrides=self.overrides, check=False)
        loaded.requires_grad_(False).eval()
        return loaded

    def rewritten(self, part: str) -> Path:
        """A folder with a large part as it is when loaded, written by the part itself.

        For bases whose files do not say all (tokens that the spec adds) or that cannot be read tensor by tensor; it
        takes the memory of the part.
        """
        if part not in self._rewritten:
            target = self.scratch / part
            target.mkdir(parents=True)
            model = self.model()
            getattr(model, part).save(target)
            del model
            gc.collect()
            self._rewritten[part] = target
        return self._rewritten[part]
