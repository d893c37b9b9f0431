"""The Q-Former of BLIP-2 and InstructBLIP, by transformers' own classes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
)

from lensmith import Connector, ConnectorShape, VisionShape
from lensmith_plugins.connectors.qformer_config import Architecture, qformer_config, whole_config
from lensmith_plugins.connectors.qformer_spec import TOKENIZER, QFormerSpec
from lensmith_plugins.connectors.safetensors_shards import read_tensors
from lensmith_plugins.connectors.weights import fill
from lensmith_plugins.own_code import code_not_run

_PREFIXES = ("qformer.", "language_projection.", "vision_model.post_layernorm.")
_TEXT = re.compile(r"qformer\.(embeddings\.(word|position)_embeddings|encoder\.layer\.(\d+)\.(intermediate|output))\.")


class QFormerConnector(Connector):
    """Queries look at the normalised features, and at the instruction, in a Q-Former; the queries are projected to D.

    BLIP-2 (Li et al. 2023, arXiv 2301.12597, section 3.1) without, InstructBLIP (Dai et al. 2023, arXiv 2305.06500,
    section 2.3) with the instruction. Tensors are called as in their checkpoints, but for `norm`, which is
    `vision_model.post_layernorm` there. The last layer's feed-forward over text is left out: nobody reads it.
    All of it has the model's floating type, where transformers keeps BLIP-2's Q-Former in fp32, and while it trains the
    dropout of its config (0.1).
    """

    def __init__(self, spec: QFormerSpec, architecture: Architecture, shape: ConnectorShape) -> None:
        super().__init__()
        self.spec, self.architecture, self.shape = spec, architecture, shape
        self.query_tokens = nn.Parameter(0.02 * torch.randn(1, architecture.queries, architecture.width))
        self.norm = nn.LayerNorm(architecture.feature_width, eps=architecture.feature_eps) if spec.input_norm else None
        self.qformer = _network(architecture)
        self.language_projection = nn.Linear(architecture.width, shape.width)
        self.tokenizer = _tokenizer(spec, architecture) if architecture.instruction else None

    @classmethod
    def build(cls, spec: QFormerSpec, encoder: VisionShape, width: int) -> QFormerConnector:
        """Build with BERT's initialisation (normal, deviation 0.02); the projection with torch's.

        Raises:
            OSError: config or tokenizer are not there.
            ValueError: sizes that cannot work, or a tokenizer with more words than the Q-Former.
        """
        return cls(spec, spec.architecture(encoder), spec.shape(encoder, width))

    def load_pretrained(self, spec: QFormerSpec) -> Sequence[str]:
        """Load queries, Q-Former, norm and projection of a checkpoint (see `Connector.load_pretrained`)."""
        if spec.checkpoint is None:
            return ()
        stored = read_tensors(spec.checkpoint, lambda name: name == "query_tokens" or name.startswith(_PREFIXES))
        named = {ours: tensor for name, tensor in stored.items() if (ours := self._own_name(name)) is not None}
        own = self.language_projection.state_dict(prefix="language_projection.")
        notes = []
        if any(name not in named or named[name].shape != tensor.shape for name, tensor in own.items()):
            theirs = named.get("language_projection.weight")
            told = "no language_projection" if theirs is None else f"a language_projection to width {len(theirs)}"
            notes.append(
                f"{spec.checkpoint} has {told}, the language model's width is {self.shape.width}: the qformer"
                " connector's projection is fresh, train it before use"
            )
            named |= own
        fill(self, named, spec.checkpoint, "give a BLIP-2 or InstructBLIP checkpoint with its own config.json")
        return notes

    def forward(self, features: Tensor, instruction: Sequence[str] | None = None) -> Tensor:
        """Connect views: (V, N, W) to (V, M, D); with instructions (V texts) the tokens depend on them.

        Raises:
            ValueError: this Q-Former reads instructions and none are given.
        """
        if self.norm is not None:
            features = self.norm(features)
        queries = self.query_tokens.expand(len(features), -1, -1)
        read: dict[str, Tensor] = {}
        if self.tokenizer is not None:
            if instruction is None:
                raise ValueError("this Q-Former reads instructions; give one text a view")
            text = self.tokenizer(
                list(instruction),
                padding=True,
                truncation=True,
                max_length=self.architecture.positions,
                return_tensors="pt",
            )
            seen = torch.ones(queries.shape[:2], dtype=torch.long)
            read = {
                "input_ids": text["input_ids"].to(features.device),
                "attention_mask": torch.cat([seen, text["attention_mask"]], dim=1).to(features.device),
            }
        hidden = self.qformer(query_embeds=queries, encoder_hidden_states=features, **read).last_hidden_state
        connected: Tensor = self.language_projection(hidden[:, : queries.shape[1]])
        return connected

    def save(self, folder: Path) -> None:
        """Write the sizes, where a file said them, and the tokenizer of instructions (see `Connector.save`)."""
        if self.spec.checkpoint is not None or self.spec.config is not None:
            sizes = json.dumps(whole_config(self.architecture), indent=2)
            (folder / "config.json").write_text(sizes + "\n", encoding="utf-8")
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder / TOKENIZER)

    def _own_name(self, name: str) -> str | None:
        """Our name of a checkpoint's tensor; None for one that is left aside."""
        if name == "qformer.embeddings.position_ids":  # a buffer that older checkpoints hold
            return None
        text = _TEXT.match(name)
        if text and (not self.architecture.instruction or text[3] == str(self.architecture.layers - 1)):
            return None
        if not self.architecture.instruction:
            name = name.replace("qformer.embeddings.layernorm.", "qformer.layernorm.")
        if name.startswith("vision_model.post_layernorm."):
            return name.replace("vision_model.post_layernorm.", "norm.") if self.norm is not None else None
        return name


class _Unread(nn.Module):
    """Stands for a feed-forward layer whose result nobody reads."""

    def forward(self, hidden: Tensor, *residual: Tensor) -> Tensor:
        return hidden


def _network(architecture: Architecture) -> Any:
    sizes = qformer_config(architecture)
    if not architecture.instruction:
        return Blip2QFormerModel(Blip2QFormerConfig(**sizes))
    network = InstructBlipQFormerModel(InstructBlipQFormerConfig(**sizes))
    last = network.encoder.layer[-1]
    last.intermediate, last.output = _Unread(), _Unread()
    return network


def _tokenizer(spec: QFormerSpec, architecture: Architecture) -> Any:
    source, subfolder = spec.tokenizer_source()
    try:
        with code_not_run(str(Path(source) / subfolder)):
            tokenizer = AutoTokenizer.from_pretrained(source, subfolder=subfolder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OSError(f"{source} holds no tokenizer for the qformer connector ({reason}); set `tokenizer`") from error
    if len(tokenizer) > architecture.vocabulary:
        raise ValueError(
            f"the tokenizer {source} has {len(tokenizer)} words, the Q-Former {architecture.vocabulary}; give the"
            " Q-Former's own tokenizer"
        )
    return tokenizer
