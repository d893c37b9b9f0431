"""Branches behind a shared beginning are what each sequence is alone, for every architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lensmith import GenerationOptions, LanguageModel, Loading
from lensmith.inference.answering import answer_keys
from lensmith.inference.decoder import Decoder
from lensmith.inference.forest import Tree
from lensmith_plugins.language_models.hf import HfCausalLanguageModel
from lensmith_plugins.language_models.specs import HfCausalSpec

REMEMBER = [
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
    "stablelm",
    "falcon",
    "falcon-grouped",
    "cohere",
    "granite",
    "gpt_neox",
    "gpt2",
    "opt",
]
ALIBI = ["bloom", "falcon-alibi"]
EAGER = {"gemma2", "bloom"}
SHARED = [(7 * n) % 50 + 3 for n in range(19)]
RESTS = [[60, 61], [60, 62, 63, 64, 65, 66, 67], [70], [60, 61, 71, 72], [70]]
OTHER = [[80, 81, 82, 83], [84] * 30]
"""Nothing in common with the others, nor with each other."""
GREEDY = GenerationOptions(max_new_tokens=9)


@pytest.fixture(scope="module", params=[*REMEMBER, "mistral eager", "gemma3_text eager"])
def model(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    write_model: Callable[..., Path],
    bytelevel_folder: Path,
) -> HfCausalLanguageModel:
    name, _, attention = request.param.partition(" ")
    return build(tmp_path_factory.mktemp(name), name, attention, write_model, bytelevel_folder)


def build(
    folder: Path, name: str, attention: str, write: Callable[..., Path], tokenizer: Path
) -> HfCausalLanguageModel:
    attention = attention or ("eager" if name in EAGER else "sdpa")
    spec = HfCausalSpec(checkpoint=str(write(folder, name)), tokenizer=str(tokenizer), attention=attention)
    return HfCausalLanguageModel.build(spec, Loading()).eval()


def alone(model: LanguageModel, keys: list[int]) -> torch.Tensor:
    """Hidden states (T, D) of a sequence that is decoded at once."""
    ids = torch.tensor([keys])
    with torch.no_grad():
        hidden: torch.Tensor = model(model.embed(ids), torch.arange(len(keys))[None], torch.ones_like(ids))[0]
    return hidden


@torch.no_grad()
def test_every_branch_is_its_sequence_alone(model: HfCausalLanguageModel) -> None:
    """Rows of different length, behind beginnings of different length, and further positions behind those."""
    decoder = Decoder(model, None)
    beginnings = [SHARED, SHARED[:11], SHARED]
    begun = decoder.begin([Tree.of([keys]) for keys in beginnings])
    for row, keys in enumerate(beginnings):
        assert torch.allclose(begun.hidden[row, : len(keys)], alone(model, keys), atol=1e-4)
    rows = [RESTS, RESTS[:1], [[60]]]
    trees = [Tree.of(row) for row in rows]
    branched = decoder.begin(trees, begun.rows([0, 1, 2], last=False))
    assert begun.memory.length == len(SHARED)  # given away as a copy
    for row, (keys, rests, tree) in enumerate(zip(beginnings, rows, trees, strict=True)):
        for rest, path in zip(rests, tree.paths, strict=True):
            assert torch.allclose(branched.hidden[row, path], alone(model, keys + rest)[len(keys) :], atol=1e-4)


def test_answers_together_are_those_alone(model: HfCausalLanguageModel) -> None:
    prompts = [*(SHARED + rest for rest in RESTS), *OTHER]
    options = GREEDY
    for _ in range(2):  # the second time with a stop text that some answer holds
        expected = [
            list(model.generate(model.embed(torch.tensor([keys])), torch.ones(1, len(keys)).bool(), options)[0])
            for keys in prompts
        ]
        for size in (1, 3, 16):
            found = dict(answer_keys(Decoder(model, None), prompts, options, size, [None] * len(prompts)))
            assert [found[number] for number in range(len(prompts))] == expected
        said = model.tokenizer.decode(expected[1])
        options = GenerationOptions(max_new_tokens=9, stop=(said[2:4],))
    assert len({len(row) for row in expected}) > 1


@pytest.mark.parametrize("name", ALIBI)
def test_positions_that_are_counted_from_the_mask_leave_no_memory(
    name: str, tmp_path: Path, write_model: Callable[..., Path], bytelevel_folder: Path
) -> None:
    assert build(tmp_path, name, "", write_model, bytelevel_folder).memory() is None


def test_an_unknown_architecture_is_tried(
    tmp_path: Path, write_model: Callable[..., Path], bytelevel_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lensmith_plugins.language_models.exactness.TESTED", frozenset())
    assert build(tmp_path / "good", "mistral", "", write_model, bytelevel_folder).memory() is not None
    monkeypatch.setattr(
        "lensmith_plugins.language_models.hf.masks",
        lambda plan, visible, *_: torch.ones_like(visible)[:, None],  # everybody sees everything
    )
    assert build(tmp_path / "bad", "mistral", "", write_model, bytelevel_folder).memory() is None
