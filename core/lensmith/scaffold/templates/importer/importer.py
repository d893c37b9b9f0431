"""From the files of the format to an artifact's parts. Imported when something is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lensmith import Found, Importer, LensmithError, PartFiles

from .spec import ExamplePartSpec

if TYPE_CHECKING:
    from lensmith.conversion.foreign import Foreign

_PARTS = ("connector", "image_splitter")


class ExamplePartImporter(Importer):
    """See `ExamplePartSpec`."""

    spec: ExamplePartSpec

    @classmethod
    def recognise(cls, source: Foreign) -> str:
        """Decided by what the files hold, never by what their folder is called."""
        return "a connector of example_part" if source.config.get("format") == "example_part" else ""

    def read(self, source: Foreign) -> Found:
        """Say what every tensor is."""
        model = source.config.get("model")
        if not isinstance(model, dict):
            raise LensmithError(f"{source.name}/config.json: no `model`, which names the parts")
        if not source.has("connector.safetensors"):
            raise LensmithError(f"{source.name}: no connector.safetensors")
        if self.spec.conversation is not None:
            model = {**model, "conversation": self.spec.conversation}
        found = {part: source.read(f"{part}.safetensors") for part in _PARTS}
        return Found(model, {part: PartFiles(tensors) for part, tensors in found.items() if tensors})
