"""What the files leave open (`lensmith import SOURCE KEY=VALUE`). Every command imports this: no torch here."""

from __future__ import annotations

import json
from pathlib import Path

from lensmith import ImporterSpec


class ExamplePartSpec(ImporterSpec):
    """A folder with `config.json`, which names the parts, and the connector's weights as `connector.safetensors`."""

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
        connector = lensmith.assemble(model).connector
        tensors = {name: Stored.of(tensor.detach().clone()) for name, tensor in connector.state_dict().items()}
        write_file(folder / "connector.safetensors", tensors)
        config = {"format": "example_part", "model": model.model_dump(mode="json")}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return cls()
