"""What a spec file may say of the language model. Every command imports this: no torch here."""

from __future__ import annotations

from pathlib import Path

from lensmith import Checkpoint, LanguageModelSpec


class ExamplePartSpec(LanguageModelSpec):
    """A causal language model of transformers.

    There is no closed form of its sizes here (`shape()`), so `measure` builds it on torch's meta device.
    """

    checkpoint: Checkpoint
    """Folder or hub id of weights and tokenizer. There is no default."""

    tokenizer: Checkpoint | None = None
    """Folder or hub id of the tokenizer. Default none: the checkpoint's."""

    @classmethod
    def tiny(cls, folder: Path) -> ExamplePartSpec:
        """The smallest model, with random weights, for tests."""
        from lensmith.testing import tiny_llama

        return cls(checkpoint=str(tiny_llama(folder)))

    def default_conversation(self) -> str:
        """Name of the conversation that the model was tuned with (`lensmith list --kind conversation`)."""
        return "vicuna_v1"

    def sources(self) -> dict[str, str]:
        """What an artifact records the hashes of."""
        named = {"checkpoint": self.checkpoint, "tokenizer": self.tokenizer}
        return {field: source for field, source in named.items() if source is not None}

    def relocated(self, folder: Path) -> ExamplePartSpec:
        """The same model with weights and tokenizer in a folder that `ExamplePartModel.save` wrote."""
        return self.model_copy(update={"checkpoint": str(folder), "tokenizer": None})

    def with_tokenizer(self, folder: Path) -> ExamplePartSpec:
        """The same model with the tokenizer that an artifact holds."""
        return self.model_copy(update={"tokenizer": str(folder)})
