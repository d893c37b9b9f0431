"""Closed forms of two decoders of the older plan: LayerNorms, biases, no gate. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lensmith import LanguageShape, Parameters, ParameterShape, linear, norm

DEFAULT_LAYERS = {"opt": 12, "phi": 24}
"""Blocks where a config does not say."""


def opt_shape(config: Mapping[str, Any], context_length: int | None) -> LanguageShape:
    """OPT (Zhang et al. 2022, arXiv 2205.01068): learned positions, of which two are for padding; embeddings may be
    narrower than the decoder."""
    known = {
        "hidden_size": 768,
        "num_hidden_layers": DEFAULT_LAYERS["opt"],
        "num_attention_heads": 12,
        "ffn_dim": 3072,
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
        **config,
    }
    inner, intermediate, vocabulary = known["hidden_size"], known["ffn_dim"], known["vocab_size"]
    width = known.get("word_embed_proj_dim") or inner
    bias, affine = known.get("enable_bias", True), known.get("layer_norm_elementwise_affine", True)
    tied = known.get("tie_word_embeddings", True)
    decoder = "network.model.decoder"
    embedding = f"{decoder}.embed_tokens.weight"
    head = () if tied else linear("network.lm_head", width, vocabulary, bias=False)

    def scale(name: str) -> Parameters:
        return norm(name, inner) if affine else ()

    parameters: list[ParameterShape] = [
        ParameterShape(embedding, (vocabulary, width)),
        ParameterShape(f"{decoder}.embed_positions.weight", (known["max_position_embeddings"] + 2, inner)),
    ]
    if width != inner:
        parameters += linear(f"{decoder}.project_out", inner, width, bias=False)
        parameters += linear(f"{decoder}.project_in", width, inner, bias=False)
    if known.get("do_layer_norm_before", True) and not known.get("_remove_final_layer_norm", False):
        parameters += scale(f"{decoder}.final_layer_norm")
    for layer in range(known["num_hidden_layers"]):
        name = f"{decoder}.layers.{layer}"
        for leaf in ("k_proj", "v_proj", "q_proj", "out_proj"):
            parameters += linear(f"{name}.self_attn.{leaf}", inner, inner, bias=bias)
        parameters += scale(f"{name}.self_attn_layer_norm")
        parameters += linear(f"{name}.fc1", inner, intermediate, bias=bias)
        parameters += linear(f"{name}.fc2", intermediate, inner, bias=bias)
        parameters += scale(f"{name}.final_layer_norm")
    heads = known["num_attention_heads"]
    return LanguageShape(
        width=width,
        vocabulary=vocabulary,
        context_length=context_length or known["max_position_embeddings"],
        layers=known["num_hidden_layers"],
        heads=heads,
        kv_heads=heads,
        head_width=inner // heads,
        intermediate=intermediate,
        parameters=(*parameters, *head),
        head=embedding if tied else head[0].name,
    )


def phi_shape(config: Mapping[str, Any], context_length: int | None) -> LanguageShape:
    """Phi 1, 1.5 and 2 (Li et al. 2023, arXiv 2309.05463): attention and feed-forward network side by side, and a
    bias on the output head."""
    known = {
        "hidden_size": 2048,
        "num_hidden_layers": DEFAULT_LAYERS["phi"],
        "num_attention_heads": 32,
        "intermediate_size": 8192,
        "vocab_size": 51200,
        "max_position_embeddings": 2048,
        **config,
    }
    width, intermediate, vocabulary = known["hidden_size"], known["intermediate_size"], known["vocab_size"]
    heads = known["num_attention_heads"]
    kv_heads = known.get("num_key_value_heads") or heads
    head_width = known.get("head_dim") or width // heads
    tied = bool(known.get("tie_word_embeddings", False))
    embedding = "network.model.embed_tokens.weight"
    parameters = [ParameterShape(embedding, (vocabulary, width))]
    for layer in range(known["num_hidden_layers"]):
        name = f"network.model.layers.{layer}"
        parameters += linear(f"{name}.self_attn.q_proj", width, heads * head_width)
        parameters += linear(f"{name}.self_attn.k_proj", width, kv_heads * head_width)
        parameters += linear(f"{name}.self_attn.v_proj", width, kv_heads * head_width)
        parameters += linear(f"{name}.self_attn.dense", heads * head_width, width)
        if known.get("qk_layernorm", False):
            parameters += norm(f"{name}.self_attn.q_layernorm", head_width)
            parameters += norm(f"{name}.self_attn.k_layernorm", head_width)
        parameters += linear(f"{name}.mlp.fc1", width, intermediate)
        parameters += linear(f"{name}.mlp.fc2", intermediate, width)
        parameters += norm(f"{name}.input_layernorm", width)
    parameters += norm("network.model.final_layernorm", width)
    weight, bias = linear("network.lm_head", width, vocabulary)
    parameters += [bias] if tied else [weight, bias]
    return LanguageShape(
        width=width,
        vocabulary=vocabulary,
        context_length=context_length or known["max_position_embeddings"],
        layers=known["num_hidden_layers"],
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        intermediate=intermediate,
        parameters=tuple(parameters),
        head=embedding if tied else weight.name,
    )
