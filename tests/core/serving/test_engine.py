"""The queue in one process: models without a memory, failures, and its end."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import lensmith
from lensmith import GenerationOptions
from lensmith.generation import Question, prepare
from lensmith.serving.engine import Engine, Job, Left, Sampling
from lensmith.serving.reply import Reply

QUESTION = "What colour is it?"
Ask = Callable[..., tuple[Job, "queue.Queue[str | BaseException | None]"]]


@pytest.fixture
def engine(model: lensmith.MultimodalModel) -> Iterator[Engine]:
    running = Engine(model, batch_size=2)
    yield running
    running.close()


@pytest.fixture
def ask(engine: Engine, model: lensmith.MultimodalModel) -> Ask:
    def call(limit: int = 12, stop: tuple[str, ...] = (), seed: int | None = None, **sampling: float) -> Any:
        told: queue.Queue[str | BaseException | None] = queue.Queue()
        reply = Reply(model.language_model.tokenizer, stop, limit)
        sample = prepare(model, Question.of(None, QUESTION))
        job = Job(sample, reply, Sampling(**sampling), seed, told.put, told.put, stop)
        engine.add(job)
        return job, told

    return call


def pieces(told: queue.Queue[str | BaseException | None]) -> list[Any]:
    found = []
    while isinstance(item := told.get(timeout=60), str):
        found.append(item)
    return [*found, item]


@pytest.mark.parametrize("remembers", [True, False])
def test_pieces_are_the_answer_with_and_without_a_memory(
    engine: Engine, ask: Ask, model: lensmith.MultimodalModel, monkeypatch: pytest.MonkeyPatch, remembers: bool
) -> None:
    said = model.generate(None, QUESTION, GenerationOptions(max_new_tokens=12))
    stop = said[len(said) // 2 :][:2]
    stopped = model.generate(None, QUESTION, GenerationOptions(max_new_tokens=12, stop=(stop,)))
    assert stopped != said
    if not remembers:
        monkeypatch.setattr(model.language_model, "memory", lambda: None)
    engine.start()
    for stops, expected, reason in (((), said, "length"), ((stop,), stopped, "stop")):
        job, told = ask(stop=stops)
        *parts, error = pieces(told)
        assert error is None
        assert "".join(parts) == job.reply.text == expected
        assert job.reply.reason == reason
    first, second = (pieces(ask(seed=3, temperature=1.5)[1]) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("remembers", [True, False])
def test_an_answer_that_nobody_wants_ends(
    engine: Engine, ask: Ask, model: lensmith.MultimodalModel, monkeypatch: pytest.MonkeyPatch, remembers: bool
) -> None:
    if not remembers:
        monkeypatch.setattr(model.language_model, "memory", lambda: None)
    engine.start()
    job, told = ask(15_000)
    told.get(timeout=60)
    other, its = ask(3)  # answered behind it
    job.cancel()
    assert isinstance(pieces(told)[-1], Left)
    assert len(job.reply.ids) < 1000
    assert pieces(its)[-1] is None
    assert len(other.reply.ids) == 3


def test_what_fails_is_told_and_the_next_is_answered(
    engine: Engine, ask: Ask, model: lensmith.MultimodalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(model.language_model, "recall", fail)
        _, told = ask()
        _, also = ask()
        engine.start()
        assert [str(pieces(one)[-1]) for one in (told, also)] == ["out of memory"] * 2
    assert pieces(ask()[1])[-1] is None


def test_requests_that_wait_at_the_end_are_told(engine: Engine, ask: Ask) -> None:
    engine.start()
    _, told = ask(15_000)
    told.get(timeout=60)
    waiting = [ask(temperature=0.5 + number)[1] for number in range(2)]
    engine.close()
    assert all(isinstance(pieces(one)[-1], Left) for one in (told, *waiting))


def test_half_characters_and_beginnings_of_stops_are_held_back(model: lensmith.MultimodalModel) -> None:
    tokenizer = model.language_model.tokenizer
    ids = tokenizer.encode("né \u20ac a## b###c", after="start").ids
    reply = Reply(tokenizer, ("###",), 100)
    told = []
    for token in ids:
        if not reply.add(token):
            break
        told.append(reply.piece())
    told.append(reply.piece())
    assert "".join(told) == "né \u20ac a## b"
    assert not any("\ufffd" in piece for piece in told)
    assert reply.reason == "stop"
