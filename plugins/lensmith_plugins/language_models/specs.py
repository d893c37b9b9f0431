"""What a spec says of a language model. No torch here."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from lensmith import Checkpoint, LanguageModelSpec, LanguageShape, SpecPath, is_hub_id, read_config
from lensmith.checkpoints import cached_folder
from lensmith.interfaces.bounds import Positions, Sizes
from lensmith_plugins.language_models.cut_config import with_layers
from lensmith_plugins.language_models.declared_template import declared_template
from lensmith_plugins.language_models.gguf_header import gguf_config, is_gguf
from lensmith_plugins.language_models.shapes import default_layers, language_shape
from lensmith_plugins.language_models.vocabulary import read_vocabulary

if TYPE_CHECKING:
    from lensmith.interfaces.text import DeclaredTokenizer


_KERNELS = {
    "flash_attention_2": ("flash_attn", "flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3"),
}
"""Attention implementations of transformers that come in packages of their own: module and package."""
ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
"""The implementations that transformers has without other packages' code, and those of installed packages."""
_SIZES = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


class CausalSpec(LanguageModelSpec):
    """Fields that every Hugging Face causal language model has.

    What its family declares stands together: BOS, end token and padding are those of the tokenizer's files, the
    context length is the config's, the conversation the one that the model was tuned with. A component fixes what
    those files leave open.
    """

    architectures: ClassVar[tuple[str, ...]] = ()
    """The `model_type`s that a component takes; empty for all."""

    padding: ClassVar[str | None] = None
    """The token that pads, whatever the tokenizer's files say; None leaves it to them (else `<unk>`, else the end)."""

    checkpoint: Checkpoint | None = None
    """Weights: a folder as `save_pretrained` writes it, a hub id, or a `.gguf` file. None: random weights."""

    config: SpecPath | None = None
    """A `config.json` or its folder. Sizes of random weights, or of a checkpoint that is not on this machine yet."""

    tokenizer: Checkpoint | None = None
    """Folder, hub id or `.gguf` file of the tokenizer; by default where the weights or the config are."""

    context_length: Positions | None = None
    """Positions a row may have; by default what the config says."""

    layers: Sizes | None = None
    """Use the first so many blocks alone, then the final norm and the output head as they are: a smaller model to train
    in minutes, to distil into or to debug with. An architecture whose blocks depend on how many there are is refused.
    By default all."""

    attention: str = "sdpa"
    """Attention implementation, by its name in transformers: `sdpa` (by default; on GPUs it packs rows by a flash
    kernel), `eager`, `flash_attention_2` (which pads), …"""

    add_tokens: list[str] = Field(default=[], max_length=10_000)
    """Special tokens for the tokenizer to gain, e.g. `[<im_start>, <im_end>]`. Each starts as the mean of all
    embeddings, in the output head too, and is trained by a tuner that trains the language model; one that the
    tokenizer has already stays as it is. By default none."""

    parse_special_text: bool = False
    """Whether a special token that is spelled out in the data (`</s>`) becomes that token. By default it stays
    text, so that data cannot end an answer. True is what the original LLaVA does."""

    def unmet(self) -> dict[str, str]:
        """See `LanguageModelSpec.unmet`."""
        module, package = _KERNELS.get(self.attention, ("", ""))
        if not module or find_spec(module) is not None:
            return {}
        return {
            "attention": f"{self.attention} needs the package {package}, which is not installed; install it, or take"
            " sdpa, which uses a flash kernel on GPUs, too"
        }

    @model_validator(mode="after")
    def _has_a_source(self) -> CausalSpec:
        if self.checkpoint is None and self.config is None:
            raise ValueError("name a `checkpoint` (folder, hub id or .gguf file) or a `config` (for random weights)")
        return self

    @field_validator("attention")
    @classmethod
    def _is_attention(cls, name: str) -> str:
        # Any other name transformers takes for a kernel of the hub, whose code it would run.
        if name not in ATTENTION:
            raise ValueError(f"{name!r} is no attention implementation of transformers; one of {', '.join(ATTENTION)}")
        return name

    @field_validator("add_tokens")
    @classmethod
    def _are_tokens(cls, tokens: list[str]) -> list[str]:
        if bad := [token for token in tokens if token != token.strip() or not token]:
            raise ValueError(f"{bad[0]!r} is empty or has spaces around it; a token reads like <im_start>")
        if twice := [token for token in tokens if tokens.count(token) > 1]:
            raise ValueError(f"{twice[0]!r} is named twice")
        return tokens

    def config_source(self) -> str:
        """Where the sizes are read: the checkpoint where it is on disk, else the config, else the hub."""
        if self.checkpoint is not None and (self.config is None or Path(self.checkpoint).exists()):
            return self.checkpoint
        return str(self.config)

    @classmethod
    def tiny(cls, folder: Path) -> CausalSpec:
        """See `PartSpec.tiny`."""
        from lensmith.testing.tiny import tiny_llama

        return cls(checkpoint=str(tiny_llama(folder)))

    def tokenizer_source(self) -> str:
        """Where the tokenizer is read."""
        if self.tokenizer is not None:
            return self.tokenizer
        if self.checkpoint is not None:
            return self.checkpoint
        source = Path(self.config_source())
        return str(source.parent) if source.is_file() and not is_gguf(source) else str(source)

    def read_config(self) -> dict[str, Any]:
        """The architecture's config as in `config.json`, for a `.gguf` file made from its header; cut to `layers`.

        Raises:
            OSError: no such file.
            ValueError: not a config, of an architecture that this component is not for, or of fewer blocks.
        """
        if self.checkpoint is not None and not is_hub_id(self.checkpoint) and not Path(self.checkpoint).exists():
            raise FileNotFoundError(
                f"{self.checkpoint} does not exist; give a local folder, a .gguf file or a hub id 'owner/name'"
            )
        source = self.config_source()
        config = gguf_config(source) if is_gguf(source) else read_config(source)
        self.check_architecture(config.get("model_type"))
        if self.config is not None and source != str(self.config) and self.config.exists():
            _hold(source, config, read_config(str(self.config)))
        if (config.get("text_config") or config).get("hidden_size_per_layer_input"):
            raise ValueError(
                f"{source} is of model_type {config.get('model_type')!r}, which looks token ids up again in every"
                " layer; a picture has no ids, so such a model cannot be used through input embeddings"
            )
        cut: dict[str, Any] = with_layers(config, self.layers, source, default_layers(config))
        return cut

    def whole(self) -> bool:
        """Whether all blocks are used that there are.

        Raises:
            OSError, ValueError: see `read_config`.
        """
        return self.read_config() == self.model_copy(update={"layers": None}).read_config()

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
        """Sizes from the config (and, with `add_tokens`, the tokenizer's files); None for an architecture without a
        closed form."""
        config = self.read_config()
        if self.add_tokens and "vocab_size" in config:
            config["vocab_size"] = self.rows(config["vocab_size"])
        found = language_shape(config, self.context_length)
        return None if found is None else replace(found, added=self.added())

    def added(self) -> int:
        """How many tokens the tokenizer gains, those counted that a saved model holds already."""
        known = read_vocabulary(self.tokenizer_source()) if self.add_tokens else None
        if known is None:
            return len(self.add_tokens)
        missing = set(self.add_tokens) - known.tokens
        return len(set(known.appended) | missing)

    def rows(self, vocabulary: int) -> int:
        """Rows of the embeddings once `add_tokens` have theirs.

        Args:
            vocabulary: rows that the config says. A tokenizer that is not on this machine is taken to fill them all.
        """
        known = read_vocabulary(self.tokenizer_source()) if self.add_tokens else None
        if known is None:
            return vocabulary + len(self.add_tokens)
        return max(vocabulary, known.length_with(self.add_tokens))

    def default_conversation(self) -> str:
        """`tokenizer`, the chat template that the tokenizer brings; without one `vicuna_v1`, as the original trains
        base models."""
        return "tokenizer" if declared_template(self.tokenizer_source()) else "vicuna_v1"

    def declared_tokenizer(self) -> DeclaredTokenizer | None:
        """See `LanguageModelSpec.declared_tokenizer`."""
        from lensmith_plugins.language_models.declared_tokenizer import declared_tokenizer, has_tokenizer

        source = self.tokenizer_source()
        if not Path(source).exists() and is_hub_id(source):
            cached = cached_folder(source)
            return declared_tokenizer(str(cached), self.add_tokens) if cached and has_tokenizer(str(cached)) else None
        if self.tokenizer is None and not _has_weights(Path(source)):
            # Sizes alone are enough for a plan; a model without weights or tokenizer is told of when it is loaded.
            return declared_tokenizer(source, self.add_tokens) if has_tokenizer(source) else None
        return declared_tokenizer(source, self.add_tokens)

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


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))


def _hold(checkpoint: str, own: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuse a `config` that describes another model than the checkpoint that is on this machine.

    Raises:
        ValueError: naming the first size that differs.
    """
    for key in _SIZES:
        if key in own and key in given and own[key] != given[key]:
            raise ValueError(
                f"`config` says {key} {given[key]!r} and the checkpoint {checkpoint} {own[key]!r}; leave `config` out,"
                " the checkpoint has its own"
            )


class LlamaSpec(CausalSpec):
    """LLaMA 1, 2 and 3, and every model of the LLaMA architecture."""

    architectures = ("llama",)

    tokenization: Literal["auto", "sentencepiece", "transformers-4.31"] = "auto"
    """Rules for the space before a word that follows a special token. `auto`: those of `tokenizer.json`, without one
    those of `tokenizer.model` and `legacy`. `sentencepiece`: always the latter, as the original LLaVA reads LLaMA-2.
    `transformers-4.31`: as in October 2023, when LLaVA-1.5 was trained; `</s>USER` then ends in `US`, `ER`."""

    def default_conversation(self) -> str:
        """`llava_llama_2` for a tokenizer with LLaMA 2's chat template, `tokenizer` for one with another template
        (LLaMA 3), `vicuna_v1` for a base model."""
        template = declared_template(self.tokenizer_source()) or ""
        return "llava_llama_2" if "<<SYS>>" in template else super().default_conversation()


class VicunaSpec(LlamaSpec):
    """Vicuna 1.1, 1.3 and 1.5: LLaMA tuned on conversations. Text after an end token is tokenised as its
    tokenizer's `legacy` says (absent and so true up to 1.3, false in 1.5); it pads with `<unk>`, id 0."""

    padding = "<unk>"

    def default_conversation(self) -> str:
        """`vicuna_v1`, the template that it was tuned with."""
        return "vicuna_v1"


class HfCausalSpec(CausalSpec):
    """Any causal language model that transformers can load and that reads input embeddings."""

    @classmethod
    def tiny(cls, folder: Path) -> HfCausalSpec:
        """See `PartSpec.tiny`."""
        from lensmith.testing.tiny import CHAT_TEMPLATE, tiny_llama

        # A block less than there are, so that every promise is also held by a model that was cut.
        return cls(checkpoint=str(tiny_llama(folder, chat_template=CHAT_TEMPLATE, layers=3)), layers=2)
