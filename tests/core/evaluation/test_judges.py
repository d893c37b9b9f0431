"""Judges behind an endpoint on this machine: cost told first, replies kept, replayed, retried and refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensmith import LensmithError
from lensmith.evaluation.endpoint import openai_judge
from lensmith.evaluation.judge import CachedJudge, Reply, estimate
from lensmith.evaluation.reasoning import without_reasoning
from lensmith.interfaces.benchmark import JudgeRequest

pytest.importorskip("openai")
Lensmith = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """Four questions of LLaVA-Bench with captions, references and answers."""
    folder = tmp_path / "bench"
    folder.mkdir()

    def write(name: str, entries: list[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    kinds = ["conv", "conv", "detail", "complex"]
    write(
        "questions.jsonl",
        [{"question_id": n, "image": f"{n}.jpg", "text": f"What {n}?", "category": k} for n, k in enumerate(kinds)],
    )
    write("context.jsonl", [{"id": str(n), "image": f"{n}.jpg", "caption": ["A.", "B."]} for n in range(4)])
    write("answers_gpt4.jsonl", [{"question_id": n, "text": f"reference {n}"} for n in range(4)])
    write("mine.jsonl", [{"question_id": n, "text": f"answer {n}", "prompt": "", "answer_id": "a"} for n in range(4)])
    return folder


def marks(request: dict[str, Any]) -> str:
    """Seven for a question's number of points, nothing to read for the last question."""
    text = request["messages"][-1]["content"]
    number = next(n for n in range(4) if f"answer {n}" in text)
    return "I like both." if number == 3 else f"8 {5 + number}\nBecause."


def command(bench: Path, *more: str | Path) -> tuple[str | Path, ...]:
    return ("score", "llava_bench", "-p", bench / "mine.jsonl", "-d", bench, "--judge-repeats", "2", *more)


def test_a_judge_is_asked_once_and_replayed(bench: Path, judge: Any, lensmith: Lensmith, tmp_path: Path) -> None:
    judge.script = marks
    cache = tmp_path / "judge.jsonl"
    asking = command(bench, "--judge-url", judge.url, "--judge-cache", cache, "--json")
    code, _, said = lensmith(*asking)
    assert code == 2
    assert "8 requests to gpt-4-0314" in said
    assert "US dollars" in said
    assert "--yes goes on" in said
    assert judge.asked == []
    code, out, _ = lensmith(*asking, "--yes")
    assert code == 0
    told = json.loads(out)
    assert {r["model"] for r in judge.asked} == {"gpt-4-0314"}
    assert {(r["temperature"], r["max_tokens"]) for r in judge.asked} == {(0.2, 1024)}
    assert len(judge.asked) == 8
    assert told["score"] == pytest.approx(75.0)  # (5 + 6 + 7) of 3 times 8
    assert told["metrics"]["as_in_the_paper"]["all"]["relative"] == round(100 * 4.25 / 5.75, 1)
    assert any(
        "2 of the judge's replies hold no two scores, left out: 3 (run 1), 3 (run 2)" in n for n in told["notes"]
    )
    code, out, said = lensmith(*command(bench, "--judge-cache", cache, "--json"))  # nobody to ask
    assert (code, json.loads(out)) == (0, told)
    assert len(judge.asked) == 8


def test_without_a_judge_and_its_replies_nothing_is_scored(bench: Path, lensmith: Lensmith) -> None:
    code, _, said = lensmith(*command(bench))
    assert code == 2
    assert "8 of 8 replies of the judge are not in the cache" in said
    assert "--judge-url" in said


def test_what_was_had_before_a_failure_is_kept(bench: Path, judge: Any, lensmith: Lensmith, tmp_path: Path) -> None:
    cache = tmp_path / "judge.jsonl"

    left = [1, 1, 1]

    def fails_late(request: dict[str, Any]) -> str | int:
        return marks(request) if left and left.pop() else 400

    judge.script = fails_late
    asking = command(bench, "--judge-url", judge.url, "--judge-cache", cache, "--yes", "--judge-parallel", "1")
    code, _, said = lensmith(*asking)
    assert code == 2
    assert re.search(r"the judge gpt-4-0314 did not answer \d/run \d", said)
    assert len(cache.read_text().splitlines()) == 3
    with cache.open("a") as file:
        file.write('{"key": "3/run')
    judge.script, judge.asked = marks, []
    assert lensmith(*asking)[0] == 0
    assert len(judge.asked) == 5


def test_replies_are_kept_beside_the_answers_whatever_they_hold(bench: Path, judge: Any, lensmith: Lensmith) -> None:
    judge.script = lambda request: "8 9\nGood\u2028indeed\x85."
    assert lensmith(*command(bench, "--judge-url", judge.url, "--yes"))[0] == 0
    asked = len(judge.asked)
    assert lensmith(*command(bench))[0] == 0
    assert len(judge.asked) == asked
    assert (bench / "judge.jsonl").is_file()


def test_a_folder_that_is_not_there_costs_nothing(bench: Path, judge: Any, lensmith: Lensmith) -> None:
    for flag in ("--samples", "--judge-cache"):
        code, _, said = lensmith(*command(bench, "--judge-url", judge.url, "--yes", flag, bench / "no" / "x.jsonl"))
        assert code == 2
        assert "there is no such folder" in said
    assert judge.asked == []


def test_a_busy_judge_is_asked_again(bench: Path, judge: Any, lensmith: Lensmith) -> None:
    judge.script = lambda request: 503 if len(judge.asked) == 1 else marks(request)
    code, _, _ = lensmith(*command(bench, "--judge-url", judge.url, "--yes", "--judge-parallel", "1"))
    assert code == 0
    assert len(judge.asked) == 9


def test_unreadable_replies_as_in_the_paper(bench: Path, judge: Any, lensmith: Lensmith) -> None:
    judge.script = marks
    code, out, _ = lensmith(*command(bench, "--judge-url", judge.url, "--yes", "-o", "unparsable=paper", "--json"))
    told = json.loads(out)
    assert code == 0
    assert told["score"] == told["metrics"]["as_in_the_paper"]["all"]["relative"] == round(100 * 4.25 / 5.75, 1)
    assert any("averaged in as -1" in note for note in told["notes"])


def test_another_judge_has_its_own_replies(bench: Path, judge: Any, lensmith: Lensmith, tmp_path: Path) -> None:
    judge.script = marks
    cache = tmp_path / "judge.jsonl"
    for model in ("one", "two"):
        asking = command(bench, "--judge-url", judge.url, "--judge-cache", cache, "--judge-model", model, "--yes")
        assert lensmith(*asking)[0] == 0
    assert [r["model"] for r in judge.asked].count("two") == 8


@pytest.mark.parametrize("price", ["30", "a/b", "1/2/3"])
def test_a_price_that_is_none(price: str, bench: Path, judge: Any, lensmith: Lensmith) -> None:
    code, _, said = lensmith(*command(bench, "--judge-url", judge.url, "--judge-price", price))
    assert code == 2
    assert "should read IN/OUT" in said


def test_a_cache_that_is_none(bench: Path, lensmith: Lensmith) -> None:
    code, _, said = lensmith(*command(bench, "--judge-cache", bench / "questions.jsonl"))
    assert code == 2
    assert "questions.jsonl:1: no reply of a judge" in said


def test_the_estimate() -> None:
    requests = [
        JudgeRequest(f"{n}", "m", ({"role": "user", "content": "four" * 250 + "猫" * 50},), 0.0, 100) for n in (1, 2)
    ]
    assert "2 requests to m: about 600 tokens in, at most 200 out" in estimate(requests)
    assert "--judge-price" in estimate(requests)
    assert "0.60 to 1.00 US dollars" in estimate(requests, (1000.0, 2000.0))
    assert estimate([]).startswith("no request")


def test_repeats_are_different_requests() -> None:
    asked = []

    def reply(request: JudgeRequest) -> Any:
        from lensmith.evaluation.judge import Reply

        asked.append(request.key)
        return Reply(request.key)

    judge = CachedJudge(None, reply)
    one, two = (JudgeRequest(f"q/run {n}", "m", ({"role": "user", "content": "x"},), 0.0, 1) for n in (1, 2))
    assert judge([one, two, one]) == ["q/run 1", "q/run 2", "q/run 1"]
    assert sorted(set(asked)) == ["q/run 1", "q/run 2"]


def one(key: str = "k", max_tokens: int = 3) -> JudgeRequest:
    messages = ({"role": "system", "content": "Mark."}, {"role": "user", "content": "A | B | "})
    return JudgeRequest(key, "judge-1", messages, 0.0, max_tokens)


class TestE8:
    def test_E8_an_empty_reply_is_asked_for_again_and_never_kept(self, tmp_path: Path) -> None:
        cache = tmp_path / "judge.jsonl"
        replies = ["", " \n", "0.5"]
        found = CachedJudge(cache, lambda request: Reply(replies.pop(0)))([one()])
        assert (found, replies) == (["0.5"], [])
        assert [json.loads(line)["reply"] for line in cache.read_text().splitlines()] == ["0.5"]

    def test_E8_where_it_stays_empty_the_next_run_asks(self, tmp_path: Path) -> None:
        cache = tmp_path / "judge.jsonl"
        assert CachedJudge(cache, lambda request: Reply(""))([one()]) == [""]
        assert not cache.exists()
        assert CachedJudge(cache, lambda request: Reply("1.0"))([one()]) == ["1.0"]

    def test_E8_an_empty_reply_of_an_older_cache_is_asked_for_again(self, tmp_path: Path) -> None:
        cache = tmp_path / "judge.jsonl"
        CachedJudge(cache, lambda request: Reply("0.3"))([one()])
        cache.write_text(cache.read_text().replace('"0.3"', '""'))
        assert CachedJudge(cache, lambda request: Reply("0.9"))([one()]) == ["0.9"]


class TestE9:
    """Endpoints that refuse what the papers' judges took."""

    def test_E9_max_completion_tokens_and_no_temperature(self, judge: Any) -> None:
        def strict(request: dict[str, Any]) -> str | tuple[int, str]:
            if "max_tokens" in request:
                return 400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            if "temperature" in request:
                return 400, "Unsupported value: 'temperature' does not support 0 with this model."
            if request["messages"][0]["role"] == "system":
                return 400, "Unsupported value: 'messages[0].role' does not support 'system' with this model."
            return "1.0"

        judge.script = strict
        said: list[str] = []
        ask = openai_judge(judge.url, say=said.append)
        assert ask(one()).text == "1.0"
        assert judge.asked[-1]["max_completion_tokens"] == 3
        assert judge.asked[-1]["messages"][0]["content"] == "Mark.\n\nA | B | "
        asked = len(judge.asked)
        ask(one("other"))
        assert len(judge.asked) == asked + 1  # what was learnt stays
        assert said == ["the judge judge-1 takes no temperature of 0: asked with its own"]

    def test_E9_a_judge_that_thinks_first_gets_room(self, judge: Any) -> None:
        def thinks(request: dict[str, Any]) -> tuple[str, str]:
            cut = request["max_tokens"] < 5000
            return ("<think>\nLet me", "length") if cut else ("<think>\nLet me see.\n</think>\n\n0.8", "stop")

        judge.script = thinks
        said: list[str] = []
        ask = openai_judge(judge.url, say=said.append)
        assert ask(one()).text == "0.8"
        assert [request["max_tokens"] for request in judge.asked] == [3, 4099, 16387]
        assert ask(one("other")).text == "0.8"
        assert len(judge.asked) == 4
        assert "thinks first" in said[0]
        judge.asked.clear()
        assert openai_judge(judge.url, max_tokens=9000)(one()).text == "0.8"
        assert [request["max_tokens"] for request in judge.asked] == [9000]

    @pytest.mark.parametrize(
        ("status", "message", "told"),
        [
            (
                400,
                "context too long",
                "refuses the request (400): context too long; --judge-model, --judge-temperature",
            ),
            (401, "bad key", "does not take the key in OPENAI_API_KEY (401): bad key"),
            (404, "no such model", "has no model judge-1, or no chat completions there (404)"),
            (422, "temperature: extra\nfields", "refuses the request (422): temperature: extra fields"),
        ],
    )
    def test_E9_refusals_say_what_to_change(self, status: int, message: str, told: str, judge: Any) -> None:
        judge.script = lambda request: (status, message)
        with pytest.raises(LensmithError) as refused:
            openai_judge(judge.url, retries=0)(one())
        assert told in str(refused.value)
        assert str(refused.value).startswith("the judge judge-1 did not answer k: ")
        assert "\n" not in str(refused.value)

    def test_E9_an_endpoint_that_is_not_there(self) -> None:
        with pytest.raises(LensmithError, match=r"http://127\.0\.0\.1:9/v1/ cannot be reached"):
            openai_judge("http://127.0.0.1:9/v1", retries=0)(one())


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("8 9", "8 9"),
        ("<think>\nwell\n</think>\n\n8 9", "8 9"),
        ("<thinking>a</thinking>8 9", "8 9"),
        ("well, hm\n</think>\n8 9", "8 9"),
        ("[THINK]hm[/THINK]8 9", "8 9"),
        ("<think></think>\n<think>more</think>\n8 9", "8 9"),
        ("<think>\nand then", ""),
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>8 9<|return|>", "8 9"),
        ("<|channel|>analysis<|message|>hm", ""),
        ("The tag <think> begins it and </think> ends it.", "The tag <think> begins it and </think> ends it."),
    ],
)
def test_E9_replies_without_their_reasoning(reply: str, answer: str) -> None:
    assert without_reasoning(reply) == answer
