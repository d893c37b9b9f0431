"""Tiny real models and tokenizers for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SENTENCES = [
    "What color is the bus? Answer the question using a single word or phrase.",
    "The bus is red.",
    "USER: and ASSISTANT: talk about pictures, of a dog and a cat.",
    "Write python to sum a list: return sum(x) # ok",
    "12345 * 678 = 8,369,910!",
]

# Two layers, width 32, the rest as small as each architecture allows; several variants of one by `model_type`.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 5},
    "qwen2": {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "smollm3": {"num_key_value_heads": 2},
    "phi": {},
    "phi3": {"num_key_value_heads": 2, "sliding_window": 5},
    "gemma": {"num_key_value_heads": 2, "head_dim": 16},
    "gemma3_text": {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 4,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "stablelm": {"num_key_value_heads": 2, "use_qkv_bias": True},
    "falcon": {"multi_query": True, "new_decoder_architecture": False},
    "falcon-alibi": {"model_type": "falcon", "alibi": True},
    "falcon-grouped": {"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "cohere": {"logit_scale": 0.3, "num_key_value_heads": 2},
    "granite": {
        "num_key_value_heads": 2,
        "logits_scaling": 3.0,
        "embedding_multiplier": 5.0,
        "residual_multiplier": 0.5,
    },
    "gpt_neox": {"rotary_pct": 0.5},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 16, "dropout": 0.0},
    "bloom": {"n_layer": 2, "n_head": 4},
}


def _tiny_config(architecture: str, vocabulary: int = 320, **changes: Any) -> Any:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "vocab_size": vocabulary,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    own = {**sizes, **ARCHITECTURES[architecture], **changes}
    return AutoConfig.for_model(own.pop("model_type", architecture), **own)


def _write_model(folder: Path, architecture: str, **changes: Any) -> Path:
    """A folder as `save_pretrained` writes it, with weights large enough for logits that differ."""
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(_tiny_config(architecture, **changes), dtype=torch.float32)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1 or not parameter.any():  # biases start at zero, and could be left out unseen
                parameter.normal_(std=0.2)
    network.tie_weights()
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., Any]:
    """`tiny_config(architecture, **changes)`: a transformers config."""
    return _tiny_config


@pytest.fixture(scope="session")
def write_model() -> Callable[..., Path]:
    """`write_model(folder, architecture, **changes)`: that config with random weights, on disk."""
    return _write_model


@pytest.fixture(scope="session")
def sentencepiece_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as Vicuna 1.5 has it: `tokenizer.model` and `legacy: false`."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    text = folder / "text.txt"
    text.write_text("\n".join(SENTENCES * 3))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        minloglevel=2,
    )
    text.unlink()
    (folder / "tokenizer.vocab").unlink()
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "legacy": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def bytelevel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as Qwen or SmolLM2 have it: byte-level BPE, ChatML tokens, no BOS."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    folder = tmp_path_factory.mktemp("bytelevel")
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)
    return folder
