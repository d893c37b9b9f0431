"""Sizes of a Q-Former, from a BLIP-2 or InstructBLIP config.json. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lensmith import Parameters, ParameterShape, linear, norm, read_config

_BLIP2 = ("blip-2", "blip_2_qformer")
_INSTRUCT = ("instructblip", "instructblip_qformer")


@dataclass(frozen=True)
class Architecture:
    """A Q-Former's sizes; the defaults are BLIP-2's.

    Args:
        queries: learned queries, M.
        width: of the queries.
        layers: of self-attention and feed-forward.
        heads: attention heads.
        cross_attention_frequency: every so many layers, from the first, look at the features.
        intermediate: inner width of the feed-forward layers.
        activation: within them, by its name in transformers.
        dropout, attention_dropout: of hidden states and of attention, while training.
        eps: of its layer norms.
        vocabulary, positions, pad_id: of the instruction's text.
        feature_width: W that it was trained for.
        feature_eps: of the layer norm on the features.
        instruction: whether it reads the instruction beside the queries.
    """

    queries: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    cross_attention_frequency: int = 2
    intermediate: int = 3072
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    eps: float = 1e-12
    vocabulary: int = 30522
    positions: int = 512
    pad_id: int = 0
    feature_width: int = 1408
    feature_eps: float = 1e-6
    instruction: bool = False

    def resized(self, sizes: dict[str, int]) -> Architecture:
        """The same with other sizes; the feed-forward layers keep their ratio to the width."""
        if "width" in sizes:
            sizes = {**sizes, "intermediate": sizes["width"] * self.intermediate // self.width}
        return replace(self, **sizes)  # type: ignore[arg-type]

    def check(self, origin: str) -> Architecture:
        """Itself, if its sizes can work.

        Raises:
            ValueError: naming the size.
        """
        for name in ("queries", "width", "layers", "heads", "cross_attention_frequency", "intermediate"):
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{origin}: {name} must be a whole number above 0, not {size!r}")
        if self.width % self.heads:
            raise ValueError(
                f"{origin}: its width {self.width} is not a multiple of its {self.heads} heads; set `heads` to a"
                " divisor, or another `width`"
            )
        return self


_NAMES = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "cross_attention_frequency": "cross_attention_frequency",
    "intermediate": "intermediate_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "eps": "layer_norm_eps",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "pad_id": "pad_token_id",
}
"""Our names, and those of a config's `qformer_config`."""


def read_architecture(source: str) -> Architecture:
    """The Q-Former of a config.

    Args:
        source: a folder, a config.json or a hub id, of a whole BLIP-2 or InstructBLIP model or of its Q-Former.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is of another model, or its sizes cannot work.
    """
    config = read_config(source)
    kind = config.get("model_type")
    if kind not in (*_BLIP2, *_INSTRUCT):
        raise ValueError(
            f"{source}: its config is of a {kind!r} model; the qformer connector reads those of BLIP-2 ('blip-2') and"
            " InstructBLIP ('instructblip')"
        )
    whole = kind in (_BLIP2[0], _INSTRUCT[0])
    qformer = (config.get("qformer_config") or {}) if whole else config
    found: dict[str, Any] = {
        ours: qformer[theirs] for ours, theirs in _NAMES.items() if qformer.get(theirs) is not None
    }
    if whole:
        vision = config.get("vision_config") or {}
        found["queries"] = config.get("num_query_tokens", Architecture.queries)
        found["feature_width"] = vision.get("hidden_size", Architecture.feature_width)
        found["feature_eps"] = vision.get("layer_norm_eps", Architecture.feature_eps)
    elif qformer.get("encoder_hidden_size") is not None:
        found["feature_width"] = qformer["encoder_hidden_size"]
    return Architecture(**found, instruction=kind in _INSTRUCT).check(source)


def qformer_config(architecture: Architecture) -> dict[str, Any]:
    """The keywords of transformers' Q-Former configs."""
    named = {theirs: getattr(architecture, ours) for ours, theirs in _NAMES.items()}
    return {**named, "encoder_hidden_size": architecture.feature_width}


def whole_config(architecture: Architecture) -> dict[str, Any]:
    """A config.json that `read_architecture` reads back to the same sizes."""
    return {
        "model_type": _INSTRUCT[0] if architecture.instruction else _BLIP2[0],
        "num_query_tokens": architecture.queries,
        "qformer_config": qformer_config(architecture),
        "vision_config": {"hidden_size": architecture.feature_width, "layer_norm_eps": architecture.feature_eps},
    }


def parameters(architecture: Architecture, features: int, outputs: int, *, input_norm: bool) -> Parameters:
    """Every tensor of the connector between W (`features`) and D (`outputs`)."""
    width = architecture.width
    tensors: Parameters = (ParameterShape("query_tokens", (1, architecture.queries, width)),)
    if input_norm:
        tensors += norm("norm", features)
    if architecture.instruction:
        tensors += (
            ParameterShape("qformer.embeddings.word_embeddings.weight", (architecture.vocabulary, width)),
            ParameterShape("qformer.embeddings.position_embeddings.weight", (architecture.positions, width)),
        )
    tensors += norm("qformer.embeddings.layernorm" if architecture.instruction else "qformer.layernorm", width)
    for number in range(architecture.layers):
        tensors += _layer(architecture, features, number)
    return tensors + linear("language_projection", width, outputs)


def _layer(architecture: Architecture, features: int, number: int) -> Parameters:
    name, width = f"qformer.encoder.layer.{number}", architecture.width
    tensors = _attention(f"{name}.attention", width, width)
    if number % architecture.cross_attention_frequency == 0:
        tensors += _attention(f"{name}.crossattention", width, features)
    if architecture.instruction and number < architecture.layers - 1:  # nobody reads the last layer's text
        tensors += _feed_forward(name, "", architecture)
    return tensors + _feed_forward(name, "_query", architecture)


def _attention(name: str, width: int, keys: int) -> Parameters:
    tensors = linear(f"{name}.attention.query", width, width)
    tensors += linear(f"{name}.attention.key", keys, width)
    tensors += linear(f"{name}.attention.value", keys, width)
    return tensors + linear(f"{name}.output.dense", width, width) + norm(f"{name}.output.LayerNorm", width)


def _feed_forward(name: str, path: str, architecture: Architecture) -> Parameters:
    width, inner = architecture.width, architecture.intermediate
    tensors = linear(f"{name}.intermediate{path}.dense", width, inner)
    return tensors + linear(f"{name}.output{path}.dense", inner, width) + norm(f"{name}.output{path}.LayerNorm", width)
