"""Answers: one by one, in batches and streamed they are the same; pictures and prompts are checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lensmith import GenerationOptions
from lensmith.data.batch import collate
from lensmith.errors import DataError
from lensmith.generation import Question, prepare
from lensmith.model import MultimodalModel

SHORT = GenerationOptions(max_new_tokens=12)
QUESTIONS: list[tuple[object, str]] = [
    (Image.new("RGB", (40, 30), "red"), "What colour is it?"),
    (None, "Say something."),
    ([Image.new("RGB", (20, 30), "blue"), Image.new("RGB", (50, 30), "green")], "<image> or <image>, which is red?"),
    (Image.new("RGB", (30, 30), "blue"), "A rather longer question: which colour is it, and which is it not?"),
    ([], "?"),
]


@pytest.fixture(autouse=True)
def talkative(model: MultimodalModel) -> Iterator[None]:
    """Random weights end an answer at any token; here answers have words."""
    head = model.language_model.network.get_output_embeddings().weight
    before = head.detach().clone()
    with torch.no_grad():
        head[model.language_model.tokenizer.eos_id] = 0
        head.mul_(8)
    yield
    with torch.no_grad():
        head.copy_(before)


def test_batches_and_streams_are_the_single_answers(model: MultimodalModel) -> None:
    single = [model.generate(images, prompt, SHORT) for images, prompt in QUESTIONS]
    assert len(set(single)) > 2
    for size in (1, 2, 8):
        assert model.generate_batch(QUESTIONS, SHORT, batch_size=size) == single
    for (images, prompt), answer in zip(QUESTIONS, single, strict=True):
        pieces = list(model.stream(images, prompt, SHORT))
        assert "".join(pieces) == answer
        assert all(pieces)


def test_an_answer_comes_in_pieces(model: MultimodalModel) -> None:
    assert len(list(model.stream(*QUESTIONS[0], SHORT))) > 2


def test_a_file_is_its_picture(model: MultimodalModel, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    QUESTIONS[0][0].save(file)  # type: ignore[attr-defined]
    answers = {model.generate(image, "What?", SHORT) for image in (QUESTIONS[0][0], file, str(file), [file])}
    assert len(answers) == 1


def test_the_pictures_stand_where_the_prompt_says(model: MultimodalModel) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    tokenizer = model.language_model.tokenizer

    def laid_out(prompt: str, *images: Image.Image) -> str:
        sample = prepare(model, Question.of(list(images), prompt))
        spelled = ["#" if i in sample.image_positions else tokenizer.decode([t]) for i, t in enumerate(sample.ids)]
        return "".join(spelled)

    assert "user\n####\nWhat?" in laid_out("What?", red)
    assert "user\n####\n####\nWhat?" in laid_out("What?", red, blue)
    assert "user\nIs #### like ####?" in laid_out("Is <image> like <image>?", red, blue)
    assert "user\nHi" in laid_out("Hi")
    one, other = (prepare(model, Question.of(images, "?")) for images in ([red, blue], [blue, red]))
    assert torch.equal(one.pictures[0].pixels, other.pictures[1].pixels)
    assert not torch.equal(one.pictures[0].pixels, other.pictures[0].pixels)


def test_the_prompt_is_the_trained_one_without_the_answer(model: MultimodalModel, row: object) -> None:
    trained = row("<image>\nWhat?", "red", colors=("red",))  # type: ignore[operator]
    asked = prepare(model, Question.of(Image.new("RGB", (40, 24), "red"), "What?"))
    assert trained.ids[: len(asked.ids)] == asked.ids
    assert trained.image_positions == asked.image_positions
    first = next(i for i, target in enumerate(trained.targets) if target != -100)
    assert first == len(asked.ids) - 1


def test_a_batch_is_padded_on_the_left(model: MultimodalModel) -> None:
    samples = [prepare(model, Question.of(images, prompt)) for images, prompt in QUESTIONS]
    batch = collate(samples, model.language_model.tokenizer.pad_id, left=True)
    assert (batch.segments[:, -1] == 1).all()


def test_the_number_of_new_tokens_is_bounded(model: MultimodalModel) -> None:
    tokenizer = model.language_model.tokenizer
    for count in (1, 3):
        answer = model.generate(None, "Say something.", GenerationOptions(max_new_tokens=count))
        assert len(tokenizer.encode(answer, after="token").ids) <= count


def test_an_answer_ends_where_the_context_does(model: MultimodalModel) -> None:
    context = model.language_model.shape.context_length
    frame = len(prepare(model, Question.of(None, "")).ids)
    prompt = "z" * (context - frame - 3)  # one id a letter
    assert len(prepare(model, Question.of(None, prompt)).ids) == context - 3
    answer = model.generate(None, prompt, GenerationOptions(max_new_tokens=50))
    assert len(model.language_model.tokenizer.encode(answer, after="token").ids) <= 3
    with pytest.raises(DataError, match=f"the prompt takes {context} positions, the language model has {context}"):
        model.generate(None, prompt + "zzz")


def test_mistakes(model: MultimodalModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the prompt holds 2 <image> for 1 pictures"):
        model.generate(Image.new("RGB", (8, 8)), "<image><image>")
    with pytest.raises(DataError, match=r"gone\.png"):
        model.generate(tmp_path / "gone.png", "What?")
    with pytest.raises(DataError, match=r"gone\.png"):
        list(model.stream(tmp_path / "gone.png", "What?"))


def test_an_error_while_streaming_reaches_the_reader(model: MultimodalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.language_model, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(model.stream(None, "Hi", SHORT))


@pytest.mark.parametrize("said", ["  red one\n ", "naïve 東京 🗼", "", " \n"])
def test_a_stream_is_the_answer_whatever_is_said(
    model: MultimodalModel, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """Space around it, characters of several ids, nothing at all."""
    ids = model.language_model.tokenizer.encode(said, after="token").ids

    def say(embeds: torch.Tensor, mask: object, options: object, on_token: Any = None) -> list[list[int]]:
        for token in ids if on_token else ():
            on_token(token)
        return [list(ids)] * len(embeds)

    monkeypatch.setattr(model.language_model, "generate", say)
    monkeypatch.setattr(model.language_model, "memory", lambda: None)
    assert model.generate(None, "Hi") == said.strip()
    pieces = list(model.stream(None, "Hi"))
    assert "".join(pieces) == said.strip()
    assert all(pieces)
    assert not any("\ufffd" in piece for piece in pieces)
