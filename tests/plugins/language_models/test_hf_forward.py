"""The pieces of a model give what the whole of it gives, padded or packed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lensmith import GenerationOptions, Loading, parameter_shapes
from lensmith_plugins.language_models.exactness import TESTED, check_exact
from lensmith_plugins.language_models.heads import logit_rule
from lensmith_plugins.language_models.hf import HfCausalLanguageModel
from lensmith_plugins.language_models.segments import NAME
from lensmith_plugins.language_models.specs import HfCausalSpec

# In transformers 5.23 these two have no SDPA attention.
EAGER = {"gemma2", "bloom"}
ALIBI = {"bloom", "falcon-alibi"}
PACKED = [
    "llama",
    "llama-tied",
    "mistral",
    "qwen2",
    "qwen3",
    "smollm3",
    "phi",
    "phi3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "cohere",
    "granite",
    "stablelm",
    "falcon",
    "falcon-alibi",
    "falcon-grouped",
    "gpt_neox",
    "gpt2",
    "opt",
    "bloom",
]
LENGTHS = (9, 3, 12)

# float32 sums in another order; the worst seen was 2e-6, on values up to 4.5.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory,
    write_model: Callable[..., Path],
    bytelevel_folder: Path,
) -> Callable[..., HfCausalLanguageModel]:
    built: dict[tuple[str, str], HfCausalLanguageModel] = {}

    def model(architecture: str, attention: str = "") -> HfCausalLanguageModel:
        attention = attention or ("eager" if architecture in EAGER else "sdpa")
        if (architecture, attention) not in built:
            folder = write_model(tmp_path_factory.mktemp(architecture), architecture)
            spec = HfCausalSpec(checkpoint=str(folder), tokenizer=str(bytelevel_folder), attention=attention)
            built[architecture, attention] = HfCausalLanguageModel.build(spec, Loading()).eval()
        return built[architecture, attention]

    return model


@pytest.fixture(scope="module")
def samples() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 320, (length,), generator=generator) for length in LENGTHS]


def single(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A row alone: ids, positions, segments."""
    return ids[None], torch.arange(len(ids))[None], torch.ones(1, len(ids), dtype=torch.long)


def padded(samples: list[Tensor], *, left: bool) -> Iterator[tuple[int, slice]]:
    longest = max(map(len, samples))
    for number, ids in enumerate(samples):
        start = longest - len(ids) if left else 0
        yield number, slice(start, start + len(ids))


@pytest.mark.parametrize("architecture", PACKED)
def test_pieces_give_the_logits_of_the_whole(
    models: Callable[..., HfCausalLanguageModel], samples: list[Tensor], architecture: str
) -> None:
    model = models(architecture)
    ids, positions, segments = single(samples[2])
    with torch.no_grad():
        logits = model.head(model(model.embed(ids), positions, segments))
        whole = model.network(input_ids=ids).logits
    assert logits.shape == (1, LENGTHS[2], model.shape.vocabulary)
    torch.testing.assert_close(logits, whole, **CLOSE)


def test_logit_rules_do_something(models: Callable[..., HfCausalLanguageModel], samples: list[Tensor]) -> None:
    rules = {name: logit_rule(models(name).network.config) for name in ("llama", "gemma2", "cohere", "granite")}
    assert (rules["llama"].scale, rules["llama"].cap) == (1.0, None)
    assert rules["gemma2"].cap == 30.0
    assert rules["cohere"].scale == 0.3
    assert rules["granite"].scale == pytest.approx(1 / 3)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("architecture", PACKED)
def test_padding_changes_nothing(
    models: Callable[..., HfCausalLanguageModel], samples: list[Tensor], architecture: str, left: bool
) -> None:
    model = models(architecture)
    longest = max(LENGTHS)
    ids = torch.zeros(len(samples), longest, dtype=torch.long)
    positions, segments = torch.zeros_like(ids), torch.zeros_like(ids)
    for number, place in padded(samples, left=left):
        ids[number, place] = samples[number]
        positions[number, place] = torch.arange(len(samples[number]))
        segments[number, place] = 1
    with torch.no_grad():
        together = model(model.embed(ids), positions, segments)
        for number, place in padded(samples, left=left):
            row, steps, ones = single(samples[number])
            alone = model(model.embed(row), steps, ones)
            torch.testing.assert_close(together[number : number + 1, place], alone, **CLOSE)


def packed_hidden(model: HfCausalLanguageModel, samples: list[Tensor], embeds: list[Tensor]) -> list[Tensor]:
    """Two rows: the first sample, padding; the other two samples, padding."""
    length = LENGTHS[1] + LENGTHS[2] + 2
    rows = torch.zeros(2, length, embeds[0].shape[-1])
    positions = torch.zeros(2, length, dtype=torch.long)
    segments = torch.zeros_like(positions)
    places = [(0, 0, 1), (1, 0, 1), (1, LENGTHS[1], 2)]
    for (row, start, segment), vectors in zip(places, embeds, strict=True):
        index = torch.arange(start, start + vectors.shape[1])
        rows = rows.index_put((torch.full_like(index, row), index), vectors[0])
        positions[row, index] = torch.arange(vectors.shape[1])
        segments[row, index] = segment
    hidden = model(rows, positions, segments)
    return [
        hidden[row : row + 1, start : start + vectors.shape[1]]
        for (row, start, _), vectors in zip(places, embeds, strict=True)
    ]


def gradients(model: HfCausalLanguageModel, embeds: list[Tensor], hidden: list[Tensor]) -> dict[str, Tensor]:
    """Gradients of a loss that looks at every hidden state, for weights and inputs."""
    weights = torch.linspace(-1, 1, hidden[0].shape[-1])
    loss = sum((h * weights).sin().sum() for h in hidden)
    names = dict(model.named_parameters())
    found = torch.autograd.grad(loss, [*embeds, *names.values()], allow_unused=True)
    keys = [*(f"input {number}" for number in range(len(embeds))), *names]
    return {key: gradient for key, gradient in zip(keys, found, strict=True) if gradient is not None}


@pytest.mark.parametrize(
    ("architecture", "attention"),
    [*((name, "") for name in PACKED), ("llama", "eager"), ("mistral", "eager"), ("qwen2", "eager")],
)
def test_packed_rows_are_the_rows_alone(
    models: Callable[..., HfCausalLanguageModel], samples: list[Tensor], architecture: str, attention: str
) -> None:
    model = models(architecture, attention)
    embeds = [model.embed(ids[None]).detach().requires_grad_() for ids in samples]
    alone = [model(vectors, *single(ids)[1:]) for vectors, ids in zip(embeds, samples, strict=True)]
    expected = gradients(model, embeds, alone)
    packed = packed_hidden(model, samples, embeds)
    for one, other in zip(packed, alone, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    found = gradients(model, embeds, packed)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(found[name] / scale, gradient / scale, msg=name, **CLOSE)


def test_which_architectures_need_rows_of_their_own(models: Callable[..., HfCausalLanguageModel]) -> None:
    assert all(models(name)._plan is None for name in ALIBI)  # alibi counts from the mask
    kinds = {name: models(name)._plan.kinds for name in PACKED if name not in ALIBI}
    assert kinds["mistral"] == ("sliding_attention",)
    assert kinds["phi3"] == ("sliding_attention",)
    assert all(len(kinds[name]) == 2 for name in ("qwen2", "gemma2", "gemma3_text"))
    assert kinds["llama"] == ("full_attention",)


@pytest.mark.parametrize("architecture", PACKED)
def test_answers_are_those_of_plain_ids(
    models: Callable[..., HfCausalLanguageModel], samples: list[Tensor], architecture: str
) -> None:
    """Greedy, alone and together with padding on the left, against transformers' own `generate(input_ids)`."""
    model = models(architecture)
    longest = max(LENGTHS)
    ids, mask = torch.zeros(len(samples), longest, dtype=torch.long), torch.zeros(len(samples), longest)
    expected = []
    for number, place in padded(samples, left=True):
        ids[number, place], mask[number, place] = samples[number], 1
        plain = model.network.generate(
            input_ids=samples[number][None],
            attention_mask=torch.ones(1, len(samples[number]), dtype=torch.long),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=model.tokenizer.eos_id,
            pad_token_id=0,
        )[0, len(samples[number]) :].tolist()
        expected.append(plain[: plain.index(model.tokenizer.eos_id)] if model.tokenizer.eos_id in plain else plain)
    options = GenerationOptions(max_new_tokens=6)
    alone = [model.generate(model.embed(s[None]), torch.ones(1, len(s)).bool(), options)[0] for s in samples]
    assert alone == expected
    assert model.generate(model.embed(ids), mask.bool(), options) == expected
    assert any(len(row) > 2 for row in expected)


@pytest.mark.parametrize("architecture", PACKED)
def test_sizes_and_the_saved_folder_are_the_model(
    models: Callable[..., HfCausalLanguageModel], samples: list[Tensor], tmp_path: Path, architecture: str
) -> None:
    model = models(architecture)
    assert model.shape.parameters == parameter_shapes(model)
    model.save(tmp_path)
    attention = model.network.config._attn_implementation
    spec = HfCausalSpec(checkpoint=str(tmp_path), attention="sdpa" if attention == NAME else attention)
    measured = HfCausalLanguageModel.measure(spec)
    assert measured == model.shape
    assert spec.shape() in (None, measured)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation=attention)
    ids = samples[0][None]
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, model.network(ids).logits)


def test_what_the_embeddings_return_is_what_the_decoder_reads(
    models: Callable[..., HfCausalLanguageModel], samples: list[Tensor]
) -> None:
    """Gemma scales in its embeddings, so features that stand among them are read as they are."""
    model = models("gemma")
    ids, positions, segments = single(samples[0])
    embeds = model.embed(ids)
    torch.testing.assert_close(embeds, model.network.model.embed_tokens.weight[ids] * 32**0.5)
    first: list[Tensor] = []
    layer = model.network.model.layers[0]
    handle = layer.register_forward_pre_hook(lambda _, args, kwargs: first.append(args[0]), with_kwargs=True)
    model(embeds, positions, segments)
    handle.remove()
    torch.testing.assert_close(first[0], embeds)


def test_architectures_that_are_not_looked_at_are_tested_here(tiny_config: Callable[..., Any]) -> None:
    assert {tiny_config(name).model_type for name in PACKED} == TESTED


class TestOneThatNobodyKnows:
    """What is not in the list above is compared with its own network when it is built."""

    @pytest.fixture
    def model(
        self, tmp_path: Path, write_model: Callable[..., Path], bytelevel_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> HfCausalLanguageModel:
        monkeypatch.setattr("lensmith_plugins.language_models.exactness.TESTED", frozenset())
        folder = write_model(tmp_path, "llama")
        spec = HfCausalSpec(checkpoint=str(folder), tokenizer=str(bytelevel_folder))
        return HfCausalLanguageModel.build(spec, Loading())

    def test_passes(self, model: HfCausalLanguageModel) -> None:
        assert model._plan is not None
        assert not model.network.training
        half = model.bfloat16()
        check_exact(half)

    def test_is_refused_for_a_head_that_does_more(self, model: HfCausalLanguageModel) -> None:
        def louder(module: nn.Module, args: Any, output: Any) -> Any:
            output.logits = output.logits * 1.1
            return output

        model.network.register_forward_hook(louder)
        with pytest.raises(ValueError, match=r"'llama' models do more to ids or logits"):
            check_exact(model)

    def test_is_refused_where_padding_counts(self, model: HfCausalLanguageModel) -> None:
        def blind(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            mask = kwargs["attention_mask"]
            return args, {**kwargs, "attention_mask": mask if mask is None else torch.ones_like(mask)}

        model.network.model.register_forward_pre_hook(blind, with_kwargs=True)
        with pytest.raises(ValueError, match=r"'llama' models do not heed the attention mask"):
            check_exact(model)

    def test_gets_rows_of_their_own_where_packing_leaks(self, model: HfCausalLanguageModel) -> None:
        def causal(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            mask = kwargs["attention_mask"]
            leaks = mask is not None and mask.ndim == 4
            return args, {**kwargs, "attention_mask": torch.ones_like(mask).tril() if leaks else mask}

        model.network.model.register_forward_pre_hook(causal, with_kwargs=True)
        check_exact(model)
        assert model._plan is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gemma4_text", "hidden_size_per_layer_input": 16}, "looks token ids up again in every layer"),
        ({"model_type": "vit"}, "is no causal language model"),
        ({"model_type": "llama4_text", "num_hidden_layers": 1}, "which module of a 'llama4_text' model is its decoder"),
    ],
)
def test_models_that_cannot_be_composed_are_named(
    tmp_path: Path, bytelevel_folder: Path, config: dict[str, Any], message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    spec = HfCausalSpec(config=tmp_path, tokenizer=str(bytelevel_folder), context_length=64)
    with pytest.raises(ValueError, match=message):
        spec.shape() or HfCausalLanguageModel.measure(spec)


def test_lora_in_place_is_seen_by_forward_and_head(
    tmp_path: Path, write_model: Callable[..., Path], bytelevel_folder: Path, samples: list[Tensor]
) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    folder = write_model(tmp_path, "llama")
    spec = HfCausalSpec(checkpoint=str(folder), tokenizer=str(bytelevel_folder))
    model = HfCausalLanguageModel.build(spec, Loading()).eval()
    ids, positions, segments = single(samples[0])
    before = model(model.embed(ids), positions, segments)
    config: Any = LoraConfig(target_modules=["q_proj", "down_proj"], r=4, init_lora_weights=False)
    inject_adapter_in_model(config, model.network)
    after = model(model.embed(ids), positions, segments)
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(model.head(after), model.network(input_ids=ids).logits, **CLOSE)
