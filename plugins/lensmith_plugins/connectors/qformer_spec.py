"""The spec of the Q-Former connector. No torch here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import model_validator

from lensmith import Checkpoint, ConnectorShape, ConnectorSpec, IncompatibleParts, SpecPath, VisionShape, is_hub_id
from lensmith.interfaces.bounds import Sizes
from lensmith_plugins.connectors.qformer_config import Architecture, parameters, read_architecture

Count = Sizes
_SIZES = ("queries", "layers", "width", "heads", "cross_attention_frequency")
TOKENIZER = "qformer_tokenizer"
"""Folder of an InstructBLIP checkpoint that holds the Q-Former's tokenizer."""


class QFormerSpec(ConnectorSpec):
    """Learned queries that look at the features in a small BERT, and at the question where it reads instructions,
    and are then projected: any N tokens become as many as there are queries."""

    checkpoint: Checkpoint | None = None
    """A BLIP-2 or InstructBLIP model, folder or hub id, as safetensors. Its queries, Q-Former and norm of the features
    are loaded, and its projection where the language model is as wide as its own. Default null: random weights."""

    config: SpecPath | None = None
    """A BLIP-2 or InstructBLIP `config.json` or its folder: sizes of random weights, or of a checkpoint that is not on
    this machine yet. Default null."""

    queries: Count | None = None
    """Learned queries, the tokens out of a view. Default null: the config's, else 32."""

    layers: Count | None = None
    """Layers. Default null: the config's, else 12."""

    width: Count | None = None
    """Width of queries and layers. Default null: the config's, else 768."""

    heads: Count | None = None
    """Attention heads. Default null: the config's, else 12."""

    cross_attention_frequency: Count | None = None
    """Every so many layers, from the first, look at the features. Default null: the config's, else 2."""

    input_norm: bool = True
    """Layer-normalise the encoder's features first: what BLIP-2's encoder does last. Default true."""

    instruction: bool | None = None
    """Read the question beside the queries, so that the tokens depend on it (InstructBLIP). Default null: as the
    checkpoint or config is made, else false."""

    tokenizer: Checkpoint | None = None
    """Folder or hub id of the BERT tokenizer for the question. Default null: the folder `qformer_tokenizer` of the
    checkpoint or beside the config."""

    @model_validator(mode="after")
    def _fits_together(self) -> QFormerSpec:
        if self.checkpoint is not None and (set_ := [name for name in _SIZES if getattr(self, name) is not None]):
            raise ValueError(f"leave out {', '.join(set_)}: with a checkpoint the sizes are its own")
        if self.instruction and not (self.tokenizer or self.checkpoint or self.config):
            raise ValueError("`instruction: true` needs a `tokenizer`: folder or hub id of a BERT tokenizer")
        return self

    @classmethod
    def tiny(cls, folder: Path) -> QFormerSpec:
        """See `PartSpec.tiny`."""
        from lensmith_plugins.connectors.tiny import write_bert_tokenizer

        tokenizer = str(write_bert_tokenizer(folder))
        return cls(queries=3, layers=3, width=24, heads=2, instruction=True, tokenizer=tokenizer)

    def sources(self) -> dict[str, str]:
        """Checkpoint, config and tokenizer."""
        named = {"checkpoint": self.checkpoint, "config": self.config, "tokenizer": self.tokenizer}
        return {field: str(source) for field, source in named.items() if source is not None}

    def relocated(self, folder: Path) -> QFormerSpec:
        """See `ConnectorSpec.relocated`."""
        sized = self.checkpoint is not None or self.config is not None
        tokenizer = folder / TOKENIZER
        update = {
            "checkpoint": None,
            "config": folder if sized else None,
            "tokenizer": str(tokenizer) if tokenizer.is_dir() else None,
        }
        return self.model_copy(update=update)

    def architecture(self, encoder: VisionShape) -> Architecture:
        """All sizes, for this encoder.

        Raises:
            OSError: the config cannot be read.
            ValueError: sizes that cannot work, or a checkpoint that cannot read instructions.
            IncompatibleParts: the checkpoint was trained on features of another width.
        """
        source = self._config_source()
        found = Architecture() if source is None else read_architecture(source)
        found = found.resized({name: getattr(self, name) for name in _SIZES if getattr(self, name) is not None})
        if self.checkpoint is not None and self.instruction and not found.instruction:
            raise ValueError(
                f"the Q-Former of {self.checkpoint} is BLIP-2's, which reads no instruction; leave `instruction` out,"
                " or give a checkpoint of InstructBLIP"
            )
        if self.checkpoint is not None and found.feature_width != encoder.width:
            raise IncompatibleParts(
                f"the qformer connector's checkpoint {self.checkpoint} reads features of width {found.feature_width},"
                f" the vision encoder's are {encoder.width} wide; use the encoder that it was trained with, or set"
                " `config` in place of `checkpoint` for fresh weights of its sizes"
            )
        instruction = found.instruction if self.instruction is None else self.instruction
        return replace(found, feature_width=encoder.width, instruction=instruction).check("the qformer connector")

    def shape(self, encoder: VisionShape, width: int) -> ConnectorShape:
        """As many tokens as queries, which lie on no grid.

        Raises:
            OSError, ValueError, IncompatibleParts: see `architecture` and `tokenizer_source`.
        """
        architecture = self.architecture(encoder)
        if architecture.instruction:
            self.tokenizer_source()
        return ConnectorShape(
            tokens=architecture.queries,
            width=width,
            grid=None,
            parameters=parameters(architecture, encoder.width, width, input_norm=self.input_norm),
            reads_instruction=architecture.instruction,
        )

    def tokenizer_source(self) -> tuple[str, str]:
        """Folder or hub id of the tokenizer, and the folder within it.

        Raises:
            FileNotFoundError: there is none; says where one may be named.
        """
        if self.tokenizer is not None:
            return self.tokenizer, ""
        source = self._config_source()
        if source is not None and not Path(source).exists() and is_hub_id(source):
            return source, TOKENIZER
        folder = Path(source or ".")
        folder = (folder if folder.is_dir() else folder.parent) / TOKENIZER
        if not folder.is_dir():
            raise FileNotFoundError(
                f"the qformer connector reads instructions and {folder} does not exist; set `tokenizer` to a folder or"
                " hub id of the Q-Former's BERT tokenizer"
            )
        return str(folder), ""

    def _config_source(self) -> str | None:
        """Where the sizes are read: the checkpoint where it is on disk, else the config, else the hub."""
        if self.checkpoint is not None and (self.config is None or Path(self.checkpoint).exists()):
            return self.checkpoint
        return None if self.config is None else str(self.config)
