"""Sizes of a causal language model in closed form: the families of LLaMA's plan. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lensmith import LanguageShape, Parameters, ParameterShape, linear, norm
from lensmith_plugins.language_models.shapes_layer_norm import DEFAULT_LAYERS, opt_shape, phi_shape


@dataclass(frozen=True)
class _Family:
    """An architecture of LLaMA's plan: what its config leaves out, and where it differs."""

    defaults: Mapping[str, Any]
    """The values of its transformers config class for keys that a file does not hold."""
    qkv_bias: bool = False
    """Biases on q, k and v that the config does not speak of."""
    optional_biases: tuple[str, ...] = ()
    """Which of `attention_bias` and `mlp_bias` the config may ask for."""
    head_norms: bool = False
    """Norms of each head's queries and keys."""
    outer_norms: bool = False
    """Norms after attention and feed-forward network as well as before them."""
    fused: bool = False
    """One layer for queries, keys and values, and one for gate and up."""


def _sizes(width: int, layers: int, heads: int, intermediate: int, vocabulary: int, length: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "max_position_embeddings": length,
    }


_BIASES = ("attention_bias", "mlp_bias")
_LLAMA = _sizes(4096, 32, 32, 11008, 32000, 2048)
_QWEN = {**_sizes(4096, 32, 32, 22016, 151936, 32768), "num_key_value_heads": 32}
_GEMMA = {
    **_sizes(2304, 26, 8, 9216, 256000, 8192),
    "num_key_value_heads": 4,
    "head_dim": 256,
    "tie_word_embeddings": True,
}
_FAMILIES = {
    "llama": _Family(_LLAMA, optional_biases=_BIASES),
    "mistral": _Family({**_sizes(4096, 32, 32, 14336, 32000, 131072), "num_key_value_heads": 8}),
    "granite": _Family(_LLAMA, optional_biases=_BIASES),
    "smollm3": _Family(
        {**_sizes(2048, 36, 16, 11008, 128256, 32768), "num_key_value_heads": 4, "tie_word_embeddings": True},
        optional_biases=_BIASES,
    ),
    "qwen2": _Family(_QWEN, qkv_bias=True),
    "qwen3": _Family({**_QWEN, "head_dim": 128}, optional_biases=("attention_bias",), head_norms=True),
    "gemma": _Family(
        {**_GEMMA, **_sizes(3072, 28, 16, 24576, 256000, 8192), "num_key_value_heads": 16},
        optional_biases=("attention_bias",),
    ),
    "gemma2": _Family(_GEMMA, optional_biases=("attention_bias",), outer_norms=True),
    "gemma3_text": _Family(
        {**_GEMMA, "vocab_size": 262208, "max_position_embeddings": 131072},
        optional_biases=("attention_bias",),
        head_norms=True,
        outer_norms=True,
    ),
    "phi3": _Family(_sizes(3072, 32, 32, 8192, 32064, 4096), fused=True),
}
_OTHERS = {"opt": opt_shape, "phi": phi_shape}


def language_shape(config: Mapping[str, Any], context_length: int | None = None) -> LanguageShape | None:
    """Every size of a model, from the keys of its `config.json`.

    Args:
        config: the config; keys that are missing have the values of transformers' config class.
        context_length: instead of the config's `max_position_embeddings`.

    Returns:
        None for an architecture without a closed form here; it is measured on the meta device.
    """
    architecture = str(config.get("model_type"))
    if architecture in _OTHERS:
        return _OTHERS[architecture](config, context_length)
    family = _FAMILIES.get(architecture)
    if family is None:
        return None
    known = {**family.defaults, **config}
    width, vocabulary = known["hidden_size"], known["vocab_size"]
    layers, heads = known["num_hidden_layers"], known["num_attention_heads"]
    kv_heads = known.get("num_key_value_heads") or heads
    head_width = known.get("head_dim") or width // heads
    tied = bool(known.get("tie_word_embeddings", False))

    embedding = "network.model.embed_tokens.weight"
    head: Parameters = () if tied else linear("network.lm_head", width, vocabulary, bias=False)
    blocks = [
        tensor
        for layer in range(layers)
        for tensor in _block(f"network.model.layers.{layer}", family, known, heads * head_width, kv_heads * head_width)
    ]
    return LanguageShape(
        width=width,
        vocabulary=vocabulary,
        context_length=context_length or known["max_position_embeddings"],
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        intermediate=known["intermediate_size"],
        parameters=(
            ParameterShape(embedding, (vocabulary, width)),
            *blocks,
            *norm("network.model.norm", width, bias=False),
            *head,
        ),
        head=embedding if tied else head[0].name,
    )


def default_layers(config: Mapping[str, Any]) -> int | None:
    """Blocks of an architecture with a closed form where its config does not say; None for others."""
    architecture = str(config.get("model_type"))
    family = _FAMILIES.get(architecture)
    if family is not None:
        return int(family.defaults["num_hidden_layers"])
    return DEFAULT_LAYERS.get(architecture)


def _block(name: str, family: _Family, known: Mapping[str, Any], queries: int, keys: int) -> Parameters:
    """One decoder layer: grouped-query attention and a gated feed-forward network, each with its RMSNorms.

    Args:
        name: of the layer.
        family: its architecture.
        known: the config, defaults filled in.
        queries, keys: widths of all heads together.
    """
    width, intermediate = known["hidden_size"], known["intermediate_size"]
    head_width = known.get("head_dim") or width // known["num_attention_heads"]
    attention_bias, mlp_bias = (key in family.optional_biases and bool(known.get(key, False)) for key in _BIASES)
    qkv_bias = attention_bias or family.qkv_bias
    down = linear(f"{name}.mlp.down_proj", intermediate, width, bias=mlp_bias)
    out = linear(f"{name}.self_attn.o_proj", queries, width, bias=attention_bias)
    if family.fused:
        return (
            *out,
            *linear(f"{name}.self_attn.qkv_proj", width, queries + 2 * keys, bias=qkv_bias),
            *linear(f"{name}.mlp.gate_up_proj", width, 2 * intermediate, bias=mlp_bias),
            *down,
            *_norms(name, width, "input_layernorm", "post_attention_layernorm"),
        )
    outer = ("pre_feedforward_layernorm", "post_feedforward_layernorm") if family.outer_norms else ()
    return (
        *linear(f"{name}.self_attn.q_proj", width, queries, bias=qkv_bias),
        *linear(f"{name}.self_attn.k_proj", width, keys, bias=qkv_bias),
        *linear(f"{name}.self_attn.v_proj", width, keys, bias=qkv_bias),
        *out,
        *(_norms(f"{name}.self_attn", head_width, "q_norm", "k_norm") if family.head_norms else ()),
        *linear(f"{name}.mlp.gate_proj", width, intermediate, bias=mlp_bias),
        *linear(f"{name}.mlp.up_proj", width, intermediate, bias=mlp_bias),
        *down,
        *_norms(name, width, "input_layernorm", "post_attention_layernorm", *outer),
    )


def _norms(name: str, width: int, *leaves: str) -> Parameters:
    return tuple(tensor for leaf in leaves for tensor in norm(f"{name}.{leaf}", width, bias=False))
