"""Judges behind an endpoint on this machine: cost told first, replies kept, replayed, retried and refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensmith.evaluation.judge import CachedJudge, estimate
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
