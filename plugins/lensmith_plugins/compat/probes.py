"""What `lensmith doctor` sees of the libraries below the parts: on tiny random models, in well under a second each."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lensmith.tested import LibraryError
from lensmith_plugins.language_models.hf import HfCausalLanguageModel
from lensmith_plugins.language_models.packing import AttentionPlan

_WIDTH, _LENGTH = 32, 5


@contextlib.contextmanager
def _model() -> Iterator[tuple[HfCausalLanguageModel, Tensor]]:
    """A LLaMA of two layers and embeddings (1, T, D) for it; the caller's random state stays."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=40,
        hidden_size=_WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = LlamaForCausalLM(config).eval()
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        yield HfCausalLanguageModel(network, None), torch.randn(1, _LENGTH, _WIDTH)


def _hidden(model: HfCausalLanguageModel, embeds: Tensor) -> Tensor:
    ones = torch.ones(1, embeds.shape[1], dtype=torch.long)
    hidden: Tensor = model(embeds, torch.arange(embeds.shape[1])[None], ones)
    return hidden


def _differs(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() > 1e-3 * other.abs().max())


def packed_samples() -> str:
    """Samples that share a row do not see each other."""
    with _model() as (model, embeds):
        alone = _hidden(model, embeds)
        row = torch.cat([embeds, embeds], dim=1)
        places = torch.arange(_LENGTH).repeat(2)[None]
        packed = model(row, places, torch.arange(1, 3).repeat_interleave(_LENGTH)[None])
        if _differs(packed, torch.cat([alone, alone], dim=1)):
            raise LibraryError("transformers", "samples that are packed into a row see each other")
        obstacle, plan = model.packing_obstacle(), model._plan
    if obstacle:
        raise LibraryError("transformers", f"packing is not used: {obstacle}")
    assert isinstance(plan, AttentionPlan)
    return "each sample by SDPA" + (", or by one kernel on this GPU" if torch.cuda.is_available() else "")


def remembered_keys() -> str:
    """Decoding step by step over a cache gives what decoding at once gives."""
    with _model() as (model, embeds):
        whole, memory = _hidden(model, embeds), model.memory()
        if memory is None:
            raise LibraryError("transformers", "LLaMA's decoder has no memory of keys and values")
        places = torch.arange(_LENGTH)[None]
        steps = [model.recall(embeds[:, n : n + 1], places[:, n : n + 1], None, memory) for n in range(_LENGTH)]
        if _differs(torch.cat(steps, dim=1), whole):
            raise LibraryError("transformers", "answers over a cache of keys and values are not those without it")
    return ""


def prefix() -> str:
    """A prefix of prefix tuning reaches the keys of every layer."""
    from lensmith_plugins.tuners.prefix import Prefix

    with _model() as (model, embeds):
        before = _hidden(model, embeds)
        added = Prefix(3, model.network, model.shape.kv_heads * model.shape.head_width, model.shape.layers)
        added.weight.mul_(50)
        if not _differs(_hidden(model, embeds), before):
            raise LibraryError("transformers", "a prefix does not change what a decoder gives")
        added.detach()
        if _differs(_hidden(model, embeds), before):
            raise LibraryError("transformers", "a prefix that was taken out still acts")
    return ""


def adapter() -> str:
    """LoRA's adapters change what a model gives, and are folded in exactly."""
    from lensmith_plugins.tuners.adapters import Injected
    from lensmith_plugins.tuners.peft_library import peft

    with _model() as (model, embeds):
        before = _hidden(model, embeds)
        injected = Injected.into(model.network, peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
        for name in injected.added:
            model.network.get_parameter(name).normal_()
        worn = _hidden(model, embeds)
        if not _differs(worn, before):
            raise LibraryError("peft", "LoRA's adapters do not change what a model gives")
        injected.fold()
        if _differs(_hidden(model, embeds), worn):
            raise LibraryError("peft", "folding LoRA's adapters in changes what a model gives")
    return f"{len(injected.added)} tensors in 4 layers"


def operations() -> str:
    """torch's counter of operations counts every matrix product, attention's included."""
    from lensmith_plugins.compat.torch import counted

    counted(lambda: None)
    return ""


def timm_levels() -> str:
    """timm's models give the maps of their levels."""
    from lensmith import Loading
    from lensmith_plugins.vision_encoders.timm_features import TimmEncoder
    from lensmith_plugins.vision_encoders.timm_spec import TimmSpec

    encoder = TimmEncoder.build(TimmSpec(model="test_vit", image_size=64, levels=[-2]), Loading()).eval()
    with torch.no_grad():
        features = encoder(torch.randn(1, 3, 64, 64))
    if tuple(features.shape) != (1, encoder.shape.tokens, encoder.shape.width):
        raise LibraryError("timm", f"a level of {encoder.shape.grid} places is given as {tuple(features.shape)}")
    return ""


def sentencepiece_scores() -> str:
    """SentencePiece models can be read piece by piece, with scores."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    model: Any = io.BytesIO()
    words = iter(["red green blue", "what colour is it", "a small red square"] * 4)
    SentencePieceTrainer.train(
        sentence_iterator=words, model_writer=model, vocab_size=40, model_type="bpe", minloglevel=3
    )
    pieces = SentencePieceProcessor(model_proto=model.getvalue())
    index = pieces.encode("red")[0]
    if pieces.piece_to_id(pieces.id_to_piece(index)) != index or pieces.get_piece_size() != 40:
        raise LibraryError("sentencepiece", "pieces and ids do not name each other")
    return ""
