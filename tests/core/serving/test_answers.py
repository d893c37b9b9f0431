"""What OpenAI's own client gets from a real server is what the model says."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lensmith
from lensmith import GenerationOptions, Turn
from lensmith.generation import Question, answer

openai = pytest.importorskip("openai")
QUESTION = "What colour is it?"


@pytest.fixture
def client(server: Any) -> Any:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def ask(client: Any) -> Callable[..., Any]:
    def call(content: Any, **settings: Any) -> Any:
        messages = content if isinstance(content, list) and "role" in content[0] else [user(content)]
        return client.chat.completions.create(model="tiny", messages=messages, **{"max_tokens": 12, **settings})

    return call


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def streamed(chunks: Any) -> tuple[str, str | None]:
    said, reason = "", None
    for chunk in chunks:
        said += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason or reason
    return said, reason


def first_stop(said: str) -> str:
    """A text within an answer, not at its beginning."""
    return said[len(said) // 2 :][:2]


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_streamed_or_whole_an_answer_is_that_of_generate(
    ask: Callable[..., Any], model: lensmith.MultimodalModel, picture: Callable[..., Any], pictures: int
) -> None:
    shown = [picture(color) for color in ("red", "blue")[:pictures]]
    content = [*(part for _, part in shown), text(QUESTION)] if pictures else QUESTION
    expected = model.generate([image for image, _ in shown], QUESTION, GenerationOptions(max_new_tokens=12))
    assert expected
    whole = ask(content)
    assert whole.choices[0].message.content == expected
    assert streamed(ask(content, stream=True)) == (expected, whole.choices[0].finish_reason)
    prompt = len(lensmith.generation.prepare(model, Question.of([image for image, _ in shown], QUESTION)).ids)
    assert whole.usage.prompt_tokens == prompt
    assert whole.usage.completion_tokens == 12
    assert whole.usage.total_tokens == prompt + 12
    assert whole.choices[0].finish_reason == "length"


def test_turns_and_the_system_message_are_the_conversations(
    ask: Callable[..., Any], model: lensmith.MultimodalModel, picture: Callable[..., Any]
) -> None:
    (red, red_part), (blue, blue_part) = picture("red"), picture("blue")
    messages = [
        {"role": "system", "content": "Be brief."},
        user([red_part, text(QUESTION)]),
        {"role": "assistant", "content": "red"},
        user([text("And this?"), blue_part]),
    ]
    turns = (Turn("user", (None, f"\n{QUESTION}")), Turn("assistant", ("red",)), Turn("user", ("And this?\n", None)))
    options = GenerationOptions(max_new_tokens=12)
    expected = answer(model, [Question((red, blue), "", turns, "Be brief.")], options)[0]
    assert expected != answer(model, [Question((red, blue), "", turns)], options)[0]
    assert ask(messages).choices[0].message.content == expected
    assert ask([{**messages[0], "role": "developer"}, *messages[1:]]).choices[0].message.content == expected


@pytest.mark.parametrize("stream", [False, True])
def test_stop_texts_end_an_answer_and_are_left_out(
    ask: Callable[..., Any], model: lensmith.MultimodalModel, stream: bool
) -> None:
    stop = first_stop(model.generate(None, QUESTION, GenerationOptions(max_new_tokens=12)))
    expected = model.generate(None, QUESTION, GenerationOptions(max_new_tokens=12, stop=(stop,)))
    for given in (stop, ["no such text", stop]):
        told = ask(QUESTION, stop=given, stream=stream)
        found = streamed(told) if stream else (told.choices[0].message.content, told.choices[0].finish_reason)
        assert found == (expected, "stop")


def test_a_seed_decides_a_sample_whoever_else_asks(ask: Callable[..., Any]) -> None:
    settings: dict[str, Any] = {"temperature": 1.5, "top_p": 0.95}
    first = ask(QUESTION, seed=7, **settings).choices[0].message.content
    assert streamed(ask(QUESTION, seed=7, stream=True, **settings))[0] == first
    found: dict[int, str] = {}

    def one(seed: int) -> None:
        found[seed] = ask(QUESTION, seed=seed, **settings).choices[0].message.content

    threads = [threading.Thread(target=one, args=(seed,)) for seed in (5, 6, 7, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[7] == first
    assert len(set(found.values())) > 1


def test_a_stream_ends_with_usage_where_that_is_asked_for(ask: Callable[..., Any]) -> None:
    *_, last = ask(QUESTION, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage.completion_tokens == 12


def test_the_model_is_listed(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="'tiny'"):
        client.models.retrieve("another")


def test_settings_of_no_effect_are_let_through(ask: Callable[..., Any], picture: Callable[..., Any]) -> None:
    """What front ends and evaluation tools send along."""
    _, part = picture("red")
    plain = ask([part]).choices[0].message.content
    part["image_url"] |= {"detail": "low", "max_dynamic_patch": 6}
    nothing = {"n": 1, "top_p": 1.0, "temperature": 0.0, "frequency_penalty": 0, "presence_penalty": 0.0, "user": "me"}
    assert ask([part], temperature=1e-9).choices[0].message.content == plain
    more = {"extra_body": {"top_k": -1, "repetition_penalty": 1.0, "chat_id": "a"}}
    assert ask([part], **nothing, **more).choices[0].message.content == plain


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_answer(server: Any, ask: Callable[..., Any], stream: bool) -> None:
    """15,000 ids would take this model half a minute."""
    if stream:
        chunks = ask(QUESTION, stream=True, max_tokens=15_000)
        for _, _ in zip(range(3), chunks, strict=False):
            pass
        assert server.get("/health")["running"] == 1
        chunks.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            ask(QUESTION, max_tokens=15_000, timeout=1.0)
    until = time.monotonic() + 5
    while server.get("/health")["running"]:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_requests_that_wait_are_answered_together_and_rightly(
    ask: Callable[..., Any], model: lensmith.MultimodalModel, picture: Callable[..., Any]
) -> None:
    """Of different lengths and stops, streamed or not, with and without pictures."""
    red, part = picture("red")
    found: dict[int, Any] = {}

    def one(number: int) -> None:
        content = [part, text(f"{number}: {QUESTION}")] if number % 2 else f"{number}: {QUESTION}"
        told = ask(content, max_tokens=4 + number, stream=number % 3 == 0)
        found[number] = streamed(told)[0] if number % 3 == 0 else told.choices[0].message.content

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(6):
        images = [red] if number % 2 else None
        expected = model.generate(images, f"{number}: {QUESTION}", GenerationOptions(max_new_tokens=4 + number))
        assert found[number] == expected


def test_the_example_of_the_docs_runs(
    server: Any,
    model: lensmith.MultimodalModel,
    picture: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    here = example.replace("http://127.0.0.1:8000/v1", server.url).replace('"tune"', '"tiny"')
    assert server.url in here
    image, _ = picture("red")
    image.save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(here, "serving.md", "exec"), {})
    expected = model.generate(image, "What is in the picture?", GenerationOptions(max_new_tokens=64))
    assert capsys.readouterr().out == expected
