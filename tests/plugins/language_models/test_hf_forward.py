"""The pieces of a model give what the whole of it gives, padded or packed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lensmith import Loading
from lensmith_plugins.language_models.heads import logit_rule
from lensmith_plugins.language_models.hf import HfCausalLanguageModel
from lensmith_plugins.language_models.specs import HfCausalSpec

# In transformers 5.23 these two have no SDPA attention.
EAGER = {"gemma2", "bloom"}
PACKED = ["llama", "mistral", "qwen2", "gemma2", "cohere", "granite", "gpt_neox", "gpt2", "opt", "bloom"]
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
    assert models("bloom")._plan is None  # no position ids: alibi counts from the mask
    kinds = {name: models(name)._plan.kinds for name in PACKED if name != "bloom"}
    assert kinds["mistral"] == ("sliding_attention",)
    assert set(kinds["qwen2"]) == set(kinds["gemma2"]) == {"full_attention", "sliding_attention"}
    assert kinds["llama"] == ("full_attention",)


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
