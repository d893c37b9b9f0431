"""What the files leave open (`lensmith import SOURCE KEY=VALUE`). Every command imports this: no torch here."""

from __future__ import annotations

import json
from pathlib import Path

from lensmith import ImporterSpec


class ExamplePartSpec(ImporterSpec):
    """A folder with `config.json`, which names the parts, and connector and splitter as `PART.safetensors`."""

    conversation: str | None = None
    """The conversation that the model was trained in, where the files do not say. Default none, for the language
    model's own."""

    @classmethod
    def tiny(cls, folder: Path) -> ExamplePartSpec:
        """A checkpoint of the format at its smallest, for the tests: an importer writes one here."""
        import lensmith
        from lensmith.conversion.stored import Stored, write_file
        from lensmith.testing import tiny_model

        model = tiny_model(folder / "parts")
        built = lensmith.assemble(model)
        for part in ("connector", "image_splitter"):
            state = getattr(built, part).state_dict()
            tensors = {name: Stored.of(tensor.detach().clone()) for name, tensor in state.items()}
            if tensors:
                write_file(folder / f"{part}.safetensors", tensors)
        config = {"format": "example_part", "model": model.model_dump(mode="json")}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return cls()
