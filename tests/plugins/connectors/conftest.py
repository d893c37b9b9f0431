"""Tiny BLIP-2 and InstructBLIP models, saved as real checkpoints, and a BERT tokenizer for questions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2Model,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    PreTrainedTokenizerFast,
)

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[DEC]",
    "what",
    "colour",
    "is",
    "it",
    "?",
    "which",
    "shape",
    "how",
    "many",
]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 40,
    "max_position_embeddings": 16,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
    "initializer_range": 0.1,
}
TEXT = {
    "model_type": "opt",
    "hidden_size": 20,
    "word_embed_proj_dim": 20,
    "ffn_dim": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 32,
}


def bert_tokenizer() -> PreTrainedTokenizerFast:
    words = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials)


def lively(model: torch.nn.Module) -> torch.nn.Module:
    """Norms, biases and queries that are not their initial ones, so that leaving one out shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "query_tokens" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    bert_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Blip2Model]:
    """Saved in several shards, with an index."""
    torch.manual_seed(3)
    config = Blip2Config(vision_config=VISION, qformer_config=SIZES, text_config=TEXT, num_query_tokens=5)
    model = lively(Blip2Model(config))
    folder = tmp_path_factory.mktemp("blip2")
    model.save_pretrained(folder, max_shard_size="60KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return folder, model


@pytest.fixture(scope="session")
def instructblip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, InstructBlipForConditionalGeneration]:
    """Saved in one file, with the Q-Former's tokenizer where InstructBLIP's processor puts it."""
    torch.manual_seed(4)
    config = InstructBlipConfig(vision_config=VISION, qformer_config=SIZES, text_config=TEXT, num_query_tokens=5)
    model = lively(InstructBlipForConditionalGeneration(config))
    folder = tmp_path_factory.mktemp("instructblip")
    model.save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder / "qformer_tokenizer")
    return folder, model
