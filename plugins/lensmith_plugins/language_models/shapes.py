"""Sizes of a causal language model in closed form. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lensmith import LanguageShape, Parameters, ParameterShape, linear, norm


@dataclass(frozen=True)
class _Family:
    """An architecture of LLaMA's plan: what its config leaves out, and where it has biases."""

    defaults: Mapping[str, Any]
    """The values of its transformers config class for keys that a file does not hold."""
    qkv_bias: bool = False
    """Biases on q, k and v that the config does not speak of."""
    optional_biases: bool = False
    """Whether the config may ask for biases (`attention_bias`, `mlp_bias`)."""


_SIZES = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
_FAMILIES = {
    "llama": _Family(
        {**_SIZES, "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 2048},
        optional_biases=True,
    ),
    "mistral": _Family(
        {
            **_SIZES,
            "intermediate_size": 14336,
            "vocab_size": 32000,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
        }
    ),
    "qwen2": _Family(
        {
            **_SIZES,
            "intermediate_size": 22016,
            "vocab_size": 151936,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 32,
        },
        qkv_bias=True,
    ),
}


def language_shape(config: Mapping[str, Any], context_length: int | None = None) -> LanguageShape | None:
    """Every size of a model, from the keys of its `config.json`.

    Args:
        config: the config; keys that are missing have the values of transformers' config class.
        context_length: instead of the config's `max_position_embeddings`.

    Returns:
        None for an architecture that is not in the table (`llama`, `mistral`, `qwen2`).
    """
    family = _FAMILIES.get(str(config.get("model_type")))
    if family is None:
        return None
    known = {**family.defaults, **config}
    width, vocabulary = known["hidden_size"], known["vocab_size"]
    layers, heads, intermediate = (
        known["num_hidden_layers"],
        known["num_attention_heads"],
        known["intermediate_size"],
    )
    kv_heads = known.get("num_key_value_heads") or heads
    head_width = known.get("head_dim") or width // heads
    tied = bool(known.get("tie_word_embeddings", False))
    attention_bias = family.optional_biases and bool(known.get("attention_bias", False))
    mlp_bias = family.optional_biases and bool(known.get("mlp_bias", False))

    embedding = "network.model.embed_tokens.weight"
    head: Parameters = () if tied else linear("network.lm_head", width, vocabulary, bias=False)
    blocks = [
        tensor
        for layer in range(layers)
        for tensor in _block(
            f"network.model.layers.{layer}",
            width=width,
            queries=heads * head_width,
            keys=kv_heads * head_width,
            intermediate=intermediate,
            qkv_bias=attention_bias or family.qkv_bias,
            out_bias=attention_bias,
            mlp_bias=mlp_bias,
        )
    ]
    return LanguageShape(
        width=width,
        vocabulary=vocabulary,
        context_length=context_length or known["max_position_embeddings"],
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        intermediate=intermediate,
        parameters=(
            ParameterShape(embedding, (vocabulary, width)),
            *blocks,
            *norm("network.model.norm", width, bias=False),
            *head,
        ),
        head=embedding if tied else head[0].name,
    )


def _block(
    name: str,
    *,
    width: int,
    queries: int,
    keys: int,
    intermediate: int,
    qkv_bias: bool,
    out_bias: bool,
    mlp_bias: bool,
) -> Parameters:
    """One decoder layer: grouped-query attention and a gated feed-forward network, each after an RMSNorm."""
    return (
        *linear(f"{name}.self_attn.q_proj", width, queries, bias=qkv_bias),
        *linear(f"{name}.self_attn.k_proj", width, keys, bias=qkv_bias),
        *linear(f"{name}.self_attn.v_proj", width, keys, bias=qkv_bias),
        *linear(f"{name}.self_attn.o_proj", queries, width, bias=out_bias),
        *linear(f"{name}.mlp.gate_proj", width, intermediate, bias=mlp_bias),
        *linear(f"{name}.mlp.up_proj", width, intermediate, bias=mlp_bias),
        *linear(f"{name}.mlp.down_proj", intermediate, width, bias=mlp_bias),
        *norm(f"{name}.input_layernorm", width, bias=False),
        *norm(f"{name}.post_attention_layernorm", width, bias=False),
    )
