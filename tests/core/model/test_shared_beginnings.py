"""Many questions at once: what they share is computed once, and what comes out is what each gives alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lensmith
from lensmith import GenerationOptions
from lensmith.data.batch import collate
from lensmith.errors import DataError
from lensmith.generation import answers
from lensmith.inference.forest import Group, Tree, grouped, rows_of
from lensmith.inference.prompts import Prompts, Question
from lensmith.model import MultimodalModel

SHORT = GenerationOptions(max_new_tokens=10)
RED, BLUE, GREEN = (Image.new("RGB", (40, 30), color) for color in ("red", "blue", "green"))
ASKED: list[tuple[Any, str]] = [
    (RED, "What colour is it?"),
    (BLUE, "What colour is it?"),
    (None, "Say something."),
    (RED, "What colour is it not?"),
    ([RED, BLUE], "<image> or <image>, which is red?"),
    (RED, "Words first: <image> what is it?"),
    (Image.new("RGB", (40, 30), "red"), "Is it red or blue, or is it none of these two?"),
    (RED, "What colour is it?"),
    (None, "Say something else."),
    ([RED, GREEN], "Which of the two is green?"),
    (RED, "?"),
]


@pytest.fixture(autouse=True)
def talkative(model: MultimodalModel) -> Iterator[None]:
    """Random weights end an answer at any token; here answers have words, and some end."""
    head = model.language_model.network.get_output_embeddings().weight
    before = head.detach().clone()
    with torch.no_grad():
        head.mul_(8)
    yield
    with torch.no_grad():
        head.copy_(before)


@pytest.fixture
def calls(model: MultimodalModel, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Views that are encoded and positions that are decoded."""
    counted = {"views": 0, "positions": 0}
    encode, recall = model.encode, model.language_model.recall

    def encoding(pixels: torch.Tensor) -> torch.Tensor:
        counted["views"] += len(pixels)
        return encode(pixels)

    def recalling(embeds: torch.Tensor, *rest: Any) -> torch.Tensor:
        counted["positions"] += embeds.shape[0] * embeds.shape[1]
        return recall(embeds, *rest)

    monkeypatch.setattr(model, "encode", encoding)
    monkeypatch.setattr(model.language_model, "recall", recalling)
    return counted


@pytest.mark.parametrize("size", [1, 3, 8, 32])
def test_greedy_answers_are_those_alone(model: MultimodalModel, size: int) -> None:
    stop = model.generate(RED, "?", SHORT)[2:4]
    for options in (SHORT, replace(SHORT, stop=(stop,))):
        alone = [model.generate(images, prompt, options) for images, prompt in ASKED]
        assert model.generate_batch(ASKED, options, batch_size=size) == alone
    assert len(set(alone)) > 4


def test_and_those_of_a_model_without_a_memory(model: MultimodalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = model.generate_batch(ASKED, SHORT)
    scored = model.score(ASKED, ["red", "a blue one"])
    monkeypatch.setattr(model.language_model, "memory", lambda: None)
    assert model.generate_batch(ASKED, SHORT) == shared
    for one, other in zip(model.score(ASKED, ["red", "a blue one"]), scored, strict=True):
        assert [c.log for c in one] == pytest.approx([c.log for c in other], abs=1e-3)


def test_pictures_are_encoded_and_beginnings_decoded_once(model: MultimodalModel, calls: dict[str, int]) -> None:
    prompts = Prompts(model)
    long = "What is there to see, if one looks for a long time? " * 2
    asked = [(RED, f"{long}{n}?") for n in range(6)]
    model.generate_batch(asked, GenerationOptions(max_new_tokens=1))
    assert calls["views"] == 1
    length = len(prompts.sample(Question.of(*asked[0])).ids)
    assert calls["positions"] < length + 6 * 12


def test_equal_pictures_in_other_files_are_one(model: MultimodalModel, calls: dict[str, int], tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        RED.save(tmp_path / name)
    model.generate_batch([(tmp_path / "a.png", "What?"), (tmp_path / "b.png", "Why?"), (RED, "Who?")], SHORT)
    assert calls["views"] == 1


def test_sampling_follows_each_question_s_seed(model: MultimodalModel) -> None:
    options = GenerationOptions(max_new_tokens=10, temperature=1.0, top_p=0.9)
    asked = [Question.of(*one) for one in ASKED]
    seeds = list(range(40, 40 + len(asked)))

    def sampled(numbers: list[int], size: int) -> dict[int, Any]:
        found = answers(model, [asked[n] for n in numbers], options, size, [seeds[n] for n in numbers])
        return {numbers[place]: said for place, said in found}

    everything = list(range(len(asked)))
    together = sampled(everything, 8)
    assert sampled(everything[::-1], 3) == together
    assert sampled([0], 1) == {0: together[0]}
    assert together[0] != together[7]  # the same question, another seed


def test_questions_that_cannot_be_asked_do_not_stop_the_others(model: MultimodalModel, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no")
    asked = [Question.of(RED, "What?"), Question.of(tmp_path / "bad.png", "What?"), Question.of(None, "<image>")]
    found = dict(answers(model, asked, SHORT))
    assert found[0] == model.generate(RED, "What?", SHORT)
    assert isinstance(found[1], DataError)
    assert "bad.png" in str(found[1])
    assert isinstance(found[2], DataError)


CANDIDATES = ["red", "a red one", "a red picture of nothing in particular", "blue"]


@pytest.mark.parametrize("size", [1, 64])
def test_scores_are_minus_the_loss_of_training(model: MultimodalModel, size: int) -> None:
    scored = model.score(ASKED, CANDIDATES, batch_size=size)
    prompts = Prompts(model)
    pad = model.language_model.tokenizer.pad_id
    for (images, prompt), row in zip(ASKED, scored, strict=True):
        for candidate, likelihood in zip(CANDIDATES, row, strict=True):
            batch = collate([prompts.sample(Question.of(images, prompt), candidate)], pad)
            with torch.no_grad():
                assert likelihood.log == pytest.approx(-float(model(batch)), rel=1e-4, abs=1e-3)
            assert likelihood.tokens == batch.target_count
            assert likelihood.mean == likelihood.log / likelihood.tokens


def test_scores_share_beginnings(model: MultimodalModel, calls: dict[str, int]) -> None:
    long = "What is there to see, if one looks for a long time? " * 2
    asked = [(RED, f"{long}{n}?") for n in range(9)]
    model.score(asked, ["yes", "no"])
    length = len(Prompts(model).sample(Question.of(*asked[0])).ids)
    assert calls["views"] == 1
    assert calls["positions"] < length + 18 * 14


def test_each_question_may_have_candidates_of_its_own(model: MultimodalModel) -> None:
    own = [["red", "blue"], ["green"], []]
    (both, one, none) = model.score([(RED, "What?"), (GREEN, "What?"), (None, "?")], own)
    assert [len(both), len(one), len(none)] == [2, 1, 0]
    alone = model.score([(RED, "What?")], ["red", "blue"])[0]
    assert [found.log for found in both] == pytest.approx([found.log for found in alone], rel=1e-6)
    with pytest.raises(ValueError, match="3 lists of candidates for 1 questions"):
        model.score([(RED, "What?")], own)
    with pytest.raises(DataError, match="candidate '' has nothing to score"):
        model.score([(RED, "What?")], ["", "red"])


def test_the_likeliest_short_answer_is_the_greedy_one(model: MultimodalModel) -> None:
    """A score and an answer are of the same probabilities."""
    said = model.generate(RED, "What?", SHORT)
    if not said.isascii():
        pytest.skip("the answer's ids are not those of its text")
    best, *others = model.score([(RED, "What?")], [said, "red", "blue"])[0]
    assert all(best.mean >= other.mean for other in others)


def test_an_artifact_answers_together_as_alone(spec: dict[str, Any], tmp_path: Path) -> None:
    """Adapters, and a prefix that comes before every beginning."""
    for name, tuner in (("lora", {"name": "lora", "rank": 2}), ("prefix", _PREFIX)):
        stage = {**spec["stages"]["align"], "tuner": tuner, "lr": 1e-2}
        run = {"model": spec["model"], "stages": {"s": stage}}
        model = lensmith.load(lensmith.train(run, output=tmp_path / name, max_steps=2)[-1])
        alone = [model.generate(images, prompt, SHORT) for images, prompt in ASKED]
        streamed = ["".join(model.stream(images, prompt, SHORT)) for images, prompt in ASKED]
        assert model.generate_batch(ASKED, SHORT) == alone == streamed


_PREFIX = {"name": "peft", "method": "prefix_tuning", "config": {"num_virtual_tokens": 3}}


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        ([[1] * 20 + [2], [1] * 20 + [3]], [Group(20, (0, 1))]),
        ([[1] * 20 + [2] * 9, [3] * 25], [Group(0, (0,)), Group(0, (1,))]),
        # A short common beginning does not keep a long one from being shared.
        (
            [[9] * 10 + [1] * 50, [9] * 10 + [2] * 50 + [3], [9] * 10 + [2] * 50 + [4]],
            [Group(0, (0,)), Group(60, (1, 2))],
        ),
        ([[1] * 20, [1] * 20], [Group(19, (0, 1))]),
        ([[1] * 5, [1] * 5], [Group(0, (0,)), Group(0, (1,))]),
    ],
)
def test_grouping(sequences: list[list[int]], expected: list[Group]) -> None:
    found = grouped(sequences, [len(sequence) - 1 for sequence in sequences])
    assert sorted(found, key=lambda group: group.members) == expected


def test_trees_hold_every_position_once() -> None:
    tree = Tree.of([[1, 2, 3], [1, 2, 4], [5], [1, 2]])
    assert tree.keys == [1, 2, 3, 4, 5]
    assert tree.depths == [0, 1, 2, 2, 0]
    assert tree.paths == [[0, 1, 2], [0, 1, 3], [4], [0, 1]]
    seen = [[place for place, sees in enumerate(row) if sees] for row in tree.visible().tolist()]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 3], [4]]


def test_rows_are_bounded() -> None:
    sequences = [[0] * 100 + [number] * 300 for number in range(1, 6)]
    assert rows_of(sequences, 100, 16) == [[0], [1], [2], [3], [4]]
    assert rows_of([row[:200] for row in sequences], 100, 16) == [[0, 1, 2, 3, 4]]
    assert rows_of([row[:110] for row in sequences], 100, 2) == [[0, 1], [2, 3], [4]]
    assert rows_of(sequences, 0, 16) == [[0], [1], [2], [3], [4]]
