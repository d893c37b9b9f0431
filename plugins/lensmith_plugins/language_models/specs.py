"""What a spec says of a language model. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from lensmith import Checkpoint, LanguageModelSpec, LanguageShape, SpecPath, read_config
from lensmith_plugins.language_models.gguf_header import gguf_config, is_gguf
from lensmith_plugins.language_models.shapes import language_shape


class CausalSpec(LanguageModelSpec):
    """Fields that every Hugging Face causal language model has."""

    architectures: ClassVar[tuple[str, ...]] = ()
    """The `model_type`s that a component takes; empty for all."""

    checkpoint: Checkpoint | None = None
    """Weights: a folder as `save_pretrained` writes it, a hub id, or a `.gguf` file. None: random weights."""

    config: SpecPath | None = None
    """A `config.json` or its folder. Sizes of random weights, or of a checkpoint that is not on this machine yet."""

    tokenizer: Checkpoint | None = None
    """Folder, hub id or `.gguf` file of the tokenizer; by default where the weights or the config are."""

    context_length: int | None = Field(default=None, gt=0)
    """Positions a row may have; by default what the config says."""

    attention: str = "sdpa"
    """Attention implementation, by its name in transformers: `sdpa`, `eager`, `flash_attention_2`, …"""

    parse_special_text: bool = False
    """Whether a special token that is spelled out in the data (`</s>`) becomes that token. By default it stays
    text, so that data cannot end an answer. True is what the original LLaVA does."""

    @model_validator(mode="after")
    def _has_a_source(self) -> CausalSpec:
        if self.checkpoint is None and self.config is None:
            raise ValueError("name a `checkpoint` (folder, hub id or .gguf file) or a `config` (for random weights)")
        return self

    def config_source(self) -> str:
        """Where the sizes are read: the checkpoint where it is on disk, else the config, else the hub."""
        if self.checkpoint is not None and (self.config is None or Path(self.checkpoint).exists()):
            return self.checkpoint
        return str(self.config)

    def tokenizer_source(self) -> str:
        """Where the tokenizer is read."""
        if self.tokenizer is not None:
            return self.tokenizer
        if self.checkpoint is not None:
            return self.checkpoint
        source = Path(self.config_source())
        return str(source.parent) if source.is_file() and not is_gguf(source) else str(source)

    def read_config(self) -> dict[str, Any]:
        """The architecture's config as in `config.json`, for a `.gguf` file made from its header.

        Raises:
            OSError: no such file.
            ValueError: not a config, or of an architecture that this component is not for.
        """
        source = self.config_source()
        config = gguf_config(source) if is_gguf(source) else read_config(source)
        self.check_architecture(config.get("model_type"))
        return config

    def check_architecture(self, model_type: str | None) -> None:
        """Refuse an architecture that this component is not for.

        Raises:
            ValueError: naming the architecture and the component to use instead.
        """
        if self.architectures and model_type not in self.architectures:
            raise ValueError(
                f"{self.config_source()} is of model_type {model_type!r}, this component takes"
                f" {' or '.join(self.architectures)}; use `hf_causal` for other architectures"
            )

    def shape(self) -> LanguageShape | None:
        """Sizes from the config alone; None for an architecture without a closed form."""
        return language_shape(self.read_config(), self.context_length)

    def default_conversation(self) -> str:
        """`vicuna_v1`; set `model.conversation` for a model that was tuned with another template."""
        return "vicuna_v1"

    def sources(self) -> dict[str, str]:
        """The checkpoint, or the config of random weights, and a tokenizer of its own."""
        named = {"checkpoint": self.checkpoint, "tokenizer": self.tokenizer}
        if self.checkpoint is None:
            named["config"] = str(self.config)
        return {field: source for field, source in named.items() if source is not None}

    def fresh(self) -> bool:
        """Without a checkpoint."""
        return self.checkpoint is None

    def relocated(self, folder: Path) -> CausalSpec:
        """See `LanguageModelSpec.relocated`; the folder holds the tokenizer too."""
        return self.model_copy(update={"checkpoint": str(folder), "config": None, "tokenizer": None})

    def with_tokenizer(self, folder: Path) -> CausalSpec:
        """See `LanguageModelSpec.with_tokenizer`."""
        return self.model_copy(update={"tokenizer": str(folder)})


class LlamaSpec(CausalSpec):
    """LLaMA 1, 2 and 3, and every model of the LLaMA architecture."""

    architectures = ("llama",)


class VicunaSpec(CausalSpec):
    """Vicuna 1.1, 1.3 and 1.5: LLaMA tuned on conversations. Its tokenizer pads with `<unk>`, id 0."""

    architectures = ("llama",)


class HfCausalSpec(CausalSpec):
    """Any causal language model that transformers can load."""
