"""Sizes in closed form are those of the modules, and need no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensmith import LanguageShape, Loading
from lensmith.interfaces.module_shapes import parameter_shapes
from lensmith_plugins.language_models.hf import HfCausalLanguageModel
from lensmith_plugins.language_models.hf_loading import load_network
from lensmith_plugins.language_models.shapes import language_shape
from lensmith_plugins.language_models.specs import HfCausalSpec, LlamaSpec, VicunaSpec

LLAMA = {"model_type": "llama", "vocab_size": 32000}
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4},
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "13B": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
    "65B": {"hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 80, "num_attention_heads": 64},
    "70B": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}
TINY = {**SIZES["tiny"], "vocab_size": 100}
FAMILIES = ("qwen3", "smollm3", "granite", "gemma", "gemma2", "gemma3_text", "phi3", "phi", "opt")
VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {**TINY, "model_type": "llama", "tie_word_embeddings": True},
    "biases": {**TINY, "model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "head_dim": {**TINY, "model_type": "llama", "head_dim": 16, "num_key_value_heads": 1},
    "mistral": {**TINY, "model_type": "mistral", "num_key_value_heads": 2},
    "mistral defaults": {**TINY, "model_type": "mistral", "num_attention_heads": 8},
    "qwen2": {**TINY, "model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {**TINY, "model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 16, "attention_bias": True},
    "smollm3": {**TINY, "model_type": "smollm3", "pad_token_id": 0, "attention_bias": True, "mlp_bias": True},
    "granite": {**TINY, "model_type": "granite", "tie_word_embeddings": True, "mlp_bias": True},
    "gemma": {**TINY, "model_type": "gemma", "num_key_value_heads": 1, "attention_bias": True},
    "gemma2": {**TINY, "model_type": "gemma2", "num_key_value_heads": 2, "head_dim": 16},
    "gemma3_text": {**TINY, "model_type": "gemma3_text", "num_key_value_heads": 2, "head_dim": 16},
    "phi3": {**TINY, "model_type": "phi3", "num_key_value_heads": 2, "pad_token_id": 0},
    "phi": {**TINY, "model_type": "phi", "num_key_value_heads": 2, "qk_layernorm": True},
    "phi tied": {**TINY, "model_type": "phi", "tie_word_embeddings": True},
    "opt": {**TINY, "model_type": "opt", "ffn_dim": 80, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    "opt without biases": {**TINY, "model_type": "opt", "ffn_dim": 80, "enable_bias": False},
    "opt without scales": {**TINY, "model_type": "opt", "ffn_dim": 80, "layer_norm_elementwise_affine": False},
    **{f"{name} all defaults": {"model_type": name, "num_hidden_layers": 1} for name in FAMILIES},
    "llama defaults": {"model_type": "llama", "num_hidden_layers": 1},
    "mistral all defaults": {"model_type": "mistral", "num_hidden_layers": 1},
    "qwen2 all defaults": {"model_type": "qwen2", "num_hidden_layers": 1},
}


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def total(shape: LanguageShape) -> int:
    return sum(parameter.numel for parameter in shape.parameters)


CONFIGS = {**{name: {**LLAMA, **sizes} for name, sizes in SIZES.items()}, **VARIANTS}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_closed_form_equals_the_modules(tmp_path: Path, config: dict[str, Any]) -> None:
    spec = HfCausalSpec(config=write_config(tmp_path, config), attention="eager")
    with torch.device("meta"):
        model = HfCausalLanguageModel(load_network(spec, Loading(weights=False)), None)
    closed = spec.shape()
    assert closed is not None
    assert closed.parameters == parameter_shapes(model)
    network = model.network
    assert closed.width == network.get_input_embeddings().weight.shape[1]
    assert closed.vocabulary == network.get_output_embeddings().weight.shape[0]
    assert closed.context_length == network.config.max_position_embeddings
    layers = network.get_decoder().layers
    assert closed.layers == len(layers)
    attention = layers[0].self_attn
    assert closed.head_width == attention.head_dim
    if hasattr(attention, "q_proj"):
        assert closed.heads * closed.head_width == attention.q_proj.out_features
        assert closed.kv_heads * closed.head_width == attention.k_proj.out_features
    up = next(module for name, module in layers[0].named_modules() if name.endswith(("up_proj", "fc1")))
    assert closed.intermediate * (2 if config["model_type"] == "phi3" else 1) == up.out_features
    head = {id(p): name for name, p in model.named_parameters()}[id(network.get_output_embeddings().weight)]
    assert closed.head == head


def test_published_totals() -> None:
    totals = {}
    for name, sizes in SIZES.items():
        shape = language_shape({**LLAMA, **sizes})
        assert shape is not None
        totals[name] = total(shape)
    assert totals["7B"] == 6_738_415_616
    assert totals["13B"] == 13_015_864_320
    assert totals["65B"] == 65_285_660_672
    assert totals["70B"] == 68_976_648_192


@pytest.mark.parametrize("architecture", ["stablelm", "gpt2", "gpt_neox", "bloom"])
def test_other_architectures_are_measured(tmp_path: Path, tiny_config: Callable[..., Any], architecture: str) -> None:
    tiny_config(architecture).save_pretrained(tmp_path)
    spec = HfCausalSpec(config=tmp_path, context_length=64, attention="eager")
    assert spec.shape() is None
    shape = HfCausalLanguageModel.measure(spec)
    assert (shape.layers, shape.heads, shape.context_length, shape.vocabulary) == (2, 4, 64, 320)
    assert shape.width == 32
    assert shape.head in {parameter.name for parameter in shape.parameters}
    assert all(parameter.name.startswith("network.") for parameter in shape.parameters)
    assert len({parameter.name for parameter in shape.parameters}) == len(shape.parameters)


def test_a_model_without_a_length_asks_for_one(tmp_path: Path, tiny_config: Callable[..., Any]) -> None:
    config = tiny_config("bloom").to_dict()
    config.pop("max_position_embeddings")
    write_config(tmp_path, config)
    with pytest.raises(ValueError, match=r"set `model\.language_model\.context_length`"):
        HfCausalLanguageModel.measure(HfCausalSpec(config=tmp_path, attention="eager"))


def test_context_length_of_the_spec_wins(tmp_path: Path) -> None:
    spec = VicunaSpec(config=write_config(tmp_path, {**LLAMA, **TINY}), context_length=77)
    shape = spec.shape()
    assert shape is not None
    assert shape.context_length == 77


def test_config_stands_in_for_a_checkpoint_that_is_not_here(tmp_path: Path) -> None:
    config = write_config(tmp_path, {**LLAMA, **SIZES["7B"]}) / "config.json"
    shape = LlamaSpec(checkpoint="nobody/not-yet", config=config).shape()
    assert shape is not None
    assert total(shape) == 6_738_415_616
    with pytest.raises(FileNotFoundError, match="not-yet does not exist"):
        LlamaSpec(checkpoint=str(tmp_path / "not-yet"), config=config).shape()
    here = tmp_path / "here"
    here.mkdir()
    write_config(here, {**LLAMA, **SIZES["tiny"]})
    with pytest.raises(
        ValueError, match=r"`config` says hidden_size 4096 and the checkpoint .* 32; leave `config` out"
    ):
        LlamaSpec(checkpoint=str(here), config=config).shape()


def test_sources_name_what_is_used(tmp_path: Path) -> None:
    folder = str(write_config(tmp_path, LLAMA))
    assert LlamaSpec(config=folder).sources() == {"config": folder}
    assert LlamaSpec(checkpoint=folder, config=folder).sources() == {"checkpoint": folder}
    assert LlamaSpec(checkpoint=folder, tokenizer=folder).sources() == {"checkpoint": folder, "tokenizer": folder}


def test_spec_errors_name_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`checkpoint`.*`config`"):
        LlamaSpec()
    with pytest.raises(ValueError, match=r"model_type 'qwen2'.*takes llama; use `hf_causal`"):
        LlamaSpec(config=write_config(tmp_path, {"model_type": "qwen2"})).shape()
    with pytest.raises(FileNotFoundError, match=r"does not exist"):
        LlamaSpec(checkpoint=str(tmp_path / "nowhere")).shape()
    (tmp_path / "broken.gguf").write_bytes(b"not a GGUF file at all")
    with pytest.raises(ValueError, match=r"broken\.gguf is not a GGUF file"):
        LlamaSpec(checkpoint=str(tmp_path / "broken.gguf")).shape()


@pytest.mark.parametrize("tied", [False, True])
def test_gguf_header(tmp_path: Path, tied: bool) -> None:
    import gguf

    file = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(80)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8)
    writer.add_tensor("token_embd.weight", np.zeros((100, 32), np.float32))
    if not tied:
        writer.add_tensor("output.weight", np.zeros((100, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = {**SIZES["tiny"], "model_type": "llama", "vocab_size": 100, "num_hidden_layers": 1}
    expected |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": tied}
    assert LlamaSpec(checkpoint=str(file)).shape() == language_shape(expected)


def test_planning_imports_no_torch(tmp_path: Path) -> None:
    write_config(tmp_path, {**LLAMA, **SIZES["7B"]})
    code = (
        "import sys\n"
        "import lensmith_plugins.language_models as plugin, lensmith_plugins.conversations as other\n"
        "list(plugin.lensmith_components()), list(other.lensmith_components())\n"
        "assert 'numpy' not in sys.modules\n"
        "import lensmith_plugins.language_models.specs as specs\n"
        f"specs.LlamaSpec(checkpoint={str(tmp_path)!r}).shape()\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
