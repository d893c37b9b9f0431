"""Scores are those of the original scorers on every golden case; the rules behind them are in docs/benchmarks.md."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lensmith.evaluation.choose import benchmark
from lensmith.interfaces.benchmark import JudgeRequest, Scores
from lensmith_plugins.benchmarks import answers, mme, options, pope, scienceqa
from lensmith_plugins.benchmarks.pairwise import two_scores
from lensmith_plugins.benchmarks.vicuna80 import rating

SHARED = Path(os.environ.get("LENSMITH_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = SHARED / "golden" / "eval"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden data at {GOLDEN}; set LENSMITH_SHARED")

PRINTED = 0.005
"""Half a unit of a value printed with two decimals."""


def expected(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((GOLDEN / name / "expected.json").read_text())
    return loaded["expected"] | {"edge_cases": loaded.get("edge_cases"), "per_question": loaded.get("per_question")}


def scored(name: str, predictions: str, *written: str, folder: str = "", judge: Any = None) -> Scores:
    data = GOLDEN / (folder or name)
    chosen = benchmark(name, written)
    return chosen.score(chosen.read([data / predictions]), data, judge)


def table(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((GOLDEN / "_tables" / f"{name}.json").read_text())
    return loaded


class TestTables:
    def test_normalised_answers(self) -> None:
        for row in table("answer_normalisation")["rows"]:
            text = row["input"]
            assert answers.vqa(text) == row["official_vqa"], text
            assert answers.evalai(text) == row["llava_evalai"], text
            assert answers.vqa(answers.evalai(text)) == row["llava_then_official"], text
            vizwiz = row["other"].get("vizwiz_adapted", row["official_vqa"])
            # The adapted copy writes a back-tick where the original has a curly apostrophe.
            assert answers.vqa(text, curly=True).replace("\u2019", "`") == vizwiz.replace("\u2019", "`")

    def test_contractions(self) -> None:
        observed = table("contractions_observed")
        assert {word: answers.vqa(word) for word in observed["official_rewrites"]} == observed["official_rewrites"]
        assert [w for w in observed["probed_unchanged"] if answers.vqa(w) != w.lower()] == []
        for word, (official, llava) in observed["llava_differs"].items():
            assert (answers.vqa(word), answers.evalai(word)) == (official, llava)

    def test_yes_and_no(self) -> None:
        for row in table("yes_no_parsing")["rows"]:
            assert pope.yes_or_no(row["input"]) == row["pope_llava_and_official"], row["input"]
            if row["mme_official"] != "INVALID_CELL":
                assert mme.yes_or_no(row["input"]) == row["mme_official"], row["input"]

    @pytest.mark.parametrize(
        ("revision", "column"), [("2023-11", "20231125"), ("2024-01", "20240117"), ("2026-08", "head")]
    )
    def test_letters_of_options(self, revision: str, column: str) -> None:
        golden = table("option_parsing")
        for row in golden["rows"]:
            told = options.letter_of(row["input"], golden["choice_sets"][row["set"]], revision)
            assert (told or False) == row[f"mmbench_vlmevalkit_{column}"], row

    def test_letters_of_scienceqa(self) -> None:
        for row in table("option_parsing")["rows"]:
            assert scienceqa.letter_of(row["input"]) == row["sqa_llava_letter"], row["input"]

    def test_replies_of_judges(self) -> None:
        golden = table("judge_reply_parsing")
        for row in golden["pairwise"]:
            told = ["NaN" if score != score else score for score in two_scores(row["input"])]
            assert [str(score).lower() for score in map(_plain, told)] == [
                str(score).lower() for score in map(_plain, row["llava_tuple"])
            ], row
        for row in golden["fastchat_single"]:
            assert rating(row["input"]) == row["fastchat_rating"], row


def _plain(score: Any) -> Any:
    return float(score) if isinstance(score, (int, float)) else {"infinity": "inf"}.get(str(score).lower(), score)


class TestVqaV2:
    @pytest.mark.parametrize(
        ("predictions", "written", "column"),
        [
            ("llava_answers.jsonl", (), "official_on_llava_upload"),
            ("expected_upload.json", (), "official_on_llava_upload"),
            ("llava_answers.jsonl", ("upload=raw",), "official_on_raw_predictions"),
            ("raw_results.json", (), "official_on_raw_predictions"),
            ("llava_answers.jsonl", ("revision=before-2021",), "official_pre2021_on_llava_upload"),
            ("raw_results.json", ("revision=before-2021",), "official_pre2021_on_raw_predictions"),
        ],
    )
    def test_scores(self, predictions: str, written: tuple[str, ...], column: str) -> None:
        truth = expected("vqav2")[column]
        found = scored("vqav2", predictions, *written)
        assert found.value == truth["accuracy"]["overall"]
        assert found.metrics["answer_type"] == truth["accuracy"]["perAnswerType"]
        assert found.metrics["question_type"] == truth["accuracy"]["perQuestionType"]
        told = {str(s.question_id): round(100 * (s.score or 0), 2) for s in found.samples}
        assert told == pytest.approx(truth["per_question"])

    def test_upload(self, tmp_path: Path) -> None:
        chosen = benchmark("vqav2")
        read = chosen.read([GOLDEN / "vqav2" / "llava_answers.jsonl"])
        (path,) = chosen.submission(read, GOLDEN / "vqav2", tmp_path)
        assert path.read_text() == (GOLDEN / "vqav2" / "expected_upload.json").read_text()


class TestVizWiz:
    @pytest.mark.parametrize(
        ("predictions", "written", "column"),
        [
            ("llava_answers.jsonl", (), "vizwiz_api_adapted_on_llava_upload"),
            ("expected_upload.json", (), "vizwiz_api_adapted_on_llava_upload"),
            ("llava_answers.jsonl", ("upload=raw",), "vizwiz_api_adapted_on_raw"),
        ],
    )
    def test_scores(self, predictions: str, written: tuple[str, ...], column: str) -> None:
        truth = expected("vizwiz")[column]
        found = scored("vizwiz", predictions, *written)
        assert found.value == truth["overall"]
        assert list(found.metrics["unanswerability"].values()) == list(truth["unanswerability"].values())
        assert [round(100 * (s.score or 0), 2) for s in found.samples] == pytest.approx(
            list(truth["per_image"].values())
        )

    def test_upload(self, tmp_path: Path) -> None:
        chosen = benchmark("vizwiz")
        read = chosen.read([GOLDEN / "vizwiz" / "llava_answers.jsonl"])
        (path,) = chosen.submission(read, GOLDEN / "vizwiz", tmp_path)
        assert path.read_text() == (GOLDEN / "vizwiz" / "expected_upload.json").read_text()


def test_textvqa() -> None:
    truth = expected("textvqa")
    found = scored("textvqa", "llava_answers.jsonl")
    assert found.value == pytest.approx(truth["accuracy_exact"], abs=1e-9)
    assert found.metrics["lines"] == truth["samples"]
    rows = json.loads((GOLDEN / "textvqa" / "expected.json").read_text())["per_prediction"]
    assert [s.read_as for s in found.samples] == [row["processed"] for row in rows]
    assert [s.score for s in found.samples] == pytest.approx([row["score"] for row in rows])


class TestScienceQa:
    def test_scores(self) -> None:
        truth = expected("scienceqa")
        found = scored("scienceqa", "llava_answers.jsonl")
        assert found.value == truth["img_accuracy"]
        assert found.metrics["accuracy"] == truth["accuracy"]
        assert found.metrics["image_questions"] == truth["img_total"]
        for name, value in found.metrics["classes"].items():
            assert value == pytest.approx(float(truth["official_table"][name]), abs=PRINTED)
        for sample in found.samples:
            assert bool(sample.score) == truth["per_question"][sample.question_id]["correct"]

    def test_result_file(self, tmp_path: Path) -> None:
        chosen = benchmark("scienceqa")
        data = GOLDEN / "scienceqa"
        (path,) = chosen.submission(chosen.read([data / "llava_answers.jsonl"]), data, tmp_path)
        truth = json.loads((data / "expected_result_file.json").read_text())
        assert json.loads(path.read_text()) == truth
        assert chosen.score(chosen.read([path]), data).metrics["accuracy"] == round(truth["acc"], 2)


@pytest.mark.parametrize("case", ["base", "plain", "shuffled", "missing_two", "duplicated_one"])
def test_pope(case: str) -> None:
    truth = expected("pope")[case]["llava"]
    found = scored("pope", f"llava_answers.{case}.jsonl")
    for category, values in truth.items():
        told = found.metrics[category]
        for ours, theirs in {"f1": "f1", "accuracy": "accuracy", "precision": "precision", "recall": "recall"}.items():
            assert told[ours] == pytest.approx(100 * values[theirs]), (category, ours)
        assert told["yes_ratio"] == pytest.approx(100 * values["yes_ratio"])
        counts = ["true_positives", "false_positives", "true_negatives", "false_negatives", "replies"]
        assert [told[name] for name in counts] == [values[name] for name in ("TP", "FP", "TN", "FN", "samples")]


def test_pope_paired_by_question_finds_what_was_shuffled() -> None:
    shuffled = scored("pope", "llava_answers.shuffled.jsonl", "pairing=id")
    truth = expected("pope")["base"]["llava"]
    assert {c: shuffled.metrics[c]["f1"] for c in truth} == pytest.approx({c: 100 * v["f1"] for c, v in truth.items()})


class TestMme:
    @pytest.mark.parametrize("case", ["base", "plain", "questions_of_an_image_not_adjacent"])
    def test_scores(self, case: str) -> None:
        truth = expected("mme")[case]["official"]
        found = scored("mme", f"llava_answers.{case}.jsonl")
        assert found.metrics["perception"] == pytest.approx(truth["Perception"])
        assert found.metrics["cognition"] == pytest.approx(truth["Cognition"])

    def test_the_official_files(self, tmp_path: Path) -> None:
        chosen = benchmark("mme")
        data = GOLDEN / "mme"
        found = chosen.score(chosen.read([data / "expected_converted"]), data)
        assert found.metrics["perception"] == pytest.approx(expected("mme")["base"]["official"]["Perception"])
        for path in chosen.submission(chosen.read([data / "llava_answers.base.jsonl"]), data, tmp_path):
            assert path.read_text() == (data / "expected_converted" / path.name).read_text()

    def test_paired_by_picture(self) -> None:
        found = scored("mme", "llava_answers.questions_of_an_image_not_adjacent.jsonl", "pairing=picture")
        assert found.value == pytest.approx(expected("mme")["base"]["official"]["Perception"]["total"])


class TestMmBench:
    @staticmethod
    def judge(requests: Sequence[JudgeRequest]) -> list[str]:
        """The stand-in: names the letter of the option with a content, else no match."""
        known = json.loads((GOLDEN / "mmbench" / "judge_replies.json").read_text())["replies"]
        told = []
        for request in requests:
            *_, asked = request.messages[0]["content"].split("Example 3: \nQuestion: ")
            reply = asked.partition("\nAnswer: ")[2].removesuffix("\nYour output: ")
            options = dict(
                line.split(". ", 1) for line in asked.partition("Answer: ")[0].splitlines()[1:] if ". " in line
            )
            content = known.get(reply, {}).get("content")
            told.append(next((letter for letter, text in options.items() if text == content), "Z"))
        return told

    @pytest.mark.parametrize(
        ("written", "column"),
        [
            ((), "vlmevalkit_20240117_exact_matching"),
            (("letters=judge",), "vlmevalkit_20240117_with_judge"),
            (("matching=2026-08",), "vlmevalkit_head_exact_matching"),
            (("matching=2026-08", "letters=judge"), "vlmevalkit_head_with_judge"),
        ],
    )
    def test_scores(self, written: tuple[str, ...], column: str) -> None:
        truth = expected("mmbench")[column]
        found = scored("mmbench", "llava_answers.jsonl", *written, judge=self.judge)
        by_group: dict[int, float] = {}
        for sample in found.samples:
            group = int(sample.question_id) % 1_000_000
            by_group[group] = min(by_group.get(group, 1.0), sample.score or 0.0)
        assert by_group == {int(index): hit for index, hit in truth["hit"].items()}
        for entry in truth["acc"]:
            told = found.metrics["splits"][entry["split"]]
            assert told["circular"] == pytest.approx(100 * entry["Overall"])
            for name, value in {**told["abilities"], **told["categories"]}.items():
                assert value == pytest.approx(100 * entry[name]), name
        assert found.value == pytest.approx(100 * sum(truth["hit"].values()) / len(truth["hit"]))

    def test_upload(self, tmp_path: Path) -> None:
        pandas = pytest.importorskip("pandas")
        chosen = benchmark("mmbench")
        data = GOLDEN / "mmbench"
        (path,) = chosen.submission(chosen.read([data / "llava_answers.jsonl"]), data, tmp_path)
        truth = json.loads((data / "expected_upload.json").read_text())
        told = pandas.read_excel(path, keep_default_na=False, na_values=[""])
        assert list(told.columns) == truth["columns"]
        assert told.astype(object).where(told.notna(), None).to_numpy().tolist() == truth["rows"]
        again = chosen.score(chosen.read([path]), path)
        assert again.value == pytest.approx(scored("mmbench", "llava_answers.jsonl").value)


class TestJudges:
    def test_requests_of_llava_bench(self) -> None:
        chosen = benchmark("llava_bench", ["repeats=1"])
        data = GOLDEN / "llavabench"
        requests = chosen.requests(chosen.read([data / "answers_model.jsonl"]), data)
        calls = json.loads((data / "expected_requests.json").read_text())
        truth = list({entry["user_sha256"]: entry for entry in calls}.values())  # two were repeated after API errors
        for request, entry in zip(requests, truth, strict=True):
            system, user = request.messages
            assert (request.model, request.temperature, request.max_tokens) == (
                entry["model"],
                entry["temperature"],
                entry["max_tokens"],
            )
            assert _sha(system["content"]) == entry["system_sha256"]
            assert _sha(user["content"]) == entry["user_sha256"]

    @pytest.mark.parametrize("unparsable", ["paper", "leave_out"])
    def test_llava_bench(self, unparsable: str) -> None:
        data = GOLDEN / "llavabench"
        told = [json.loads(line)["content"] for line in (data / "expected_reviews.jsonl").read_text().splitlines()]
        found = scored(
            "llava_bench",
            "answers_model.jsonl",
            "repeats=1",
            f"unparsable={unparsable}",
            folder="llavabench",
            judge=lambda requests: told,
        )
        reviewed = scored("llava_bench", "expected_reviews.jsonl", f"unparsable={unparsable}", folder="llavabench")
        assert reviewed.metrics == found.metrics
        truth = expected("llavabench")["llava"]["summary"]
        assert found.metrics["as_in_the_paper"] == truth
        assert (found.value == truth["all"]["relative"]) is (unparsable == "paper")
        assert found.metrics["unparsable_replies"] == 10

    def test_mmvet(self) -> None:
        data = GOLDEN / "mmvet"
        replies = json.loads((data / "judge_replies.json").read_text())["replies"]
        asked: list[JudgeRequest] = []
        counts: dict[str, int] = {}

        def judge(requests: Sequence[JudgeRequest]) -> list[str]:
            told = []
            for request in requests:
                asked.append(request)
                key = request.messages[0]["content"].split(" | ")[-2]
                script = [reply for reply in replies[key] if reply != "__RATE_LIMIT__"]
                told.append(script[min(counts.get(key, 0), len(script) - 1)])
                counts[key] = counts.get(key, 0) + 1
            return told

        found = scored("mmvet", "llava_answers.jsonl", "unparsable=paper", judge=judge)
        truth = expected("mmvet")["1run"]
        assert found.value == truth["cap_score"]["total"]
        assert found.metrics["capabilities"] == {
            k: v for k, v in truth["cap_score"].items() if k not in ("total", "std", "runs")
        }
        assert found.metrics["combinations"] == {
            "_".join(sorted(k.split("_"))): v
            for k, v in truth["cap_int_score_sorted_names"].items()
            if k not in ("total", "std", "runs")
        }
        told = {(_sha(r.messages[0]["content"]), r.temperature) for r in asked}
        wanted = json.loads((data / "expected_requests.json").read_text())
        assert told == {(entry["user_sha256"], entry["temperature"]) for entry in wanted}
        assert {r.model for r in asked} == {"gpt-4-0613"}

    def test_mmvet_grades_of_three_runs(self, tmp_path: Path) -> None:
        truth = expected("mmvet")["3runs_with_varied_first_three"]
        grades = {i: {"model": ["j"] * 3, "content": ["0.5"] * 3, "score": s} for i, s in truth["scores"].items()}
        (tmp_path / "grades.json").write_text(json.dumps(grades))
        chosen = benchmark("mmvet")
        found = chosen.score(chosen.read([tmp_path / "grades.json"]), GOLDEN / "mmvet")
        assert found.value == truth["cap_score"]["total"]
        assert found.metrics["deviation"] == truth["cap_score"]["std"]
        assert found.metrics["runs"] == json.loads(truth["cap_score"]["runs"])

    def test_results_file_of_mmvet(self, tmp_path: Path) -> None:
        chosen = benchmark("mmvet")
        data = GOLDEN / "mmvet"
        (path,) = chosen.submission(chosen.read([data / "llava_answers.jsonl"]), data, tmp_path)
        assert json.loads(path.read_text()) == json.loads((data / "expected_results.json").read_text())


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", ["vqav2", "vizwiz", "textvqa", "pope", "scienceqa", "mmbench"])
def test_of_a_limited_run_only_what_was_asked_counts(name: str) -> None:
    """As `lensmith eval --limit` scores; each answer's score is that of the whole run."""
    data = GOLDEN / name
    chosen = benchmark(name)
    read = chosen.read([data / f"llava_answers{'.plain' if name == 'pope' else ''}.jsonl"])
    seen = {row.question_id for row in read.rows[: len(read.rows) // 2]}
    asked = [row for row in read.rows if row.question_id in seen]
    whole = {str(sample.question_id): sample.score for sample in chosen.score(read, data).samples}
    found = chosen.score(replace(read, rows=asked, partial=True), data)
    told = {str(sample.question_id): sample.score for sample in found.samples}
    if name == "mmbench":  # a question counts where all its rotations were asked
        groups: dict[int, set[str]] = {}
        for identity in whole:
            groups.setdefault(int(identity) % 1_000_000, set()).add(identity)
        counted = [group for group in groups.values() if group <= set(map(str, seen))]
        assert told == {identity: whole[identity] for group in counted for identity in group}
        assert 0 < len(counted) < len(groups)
        hits = [min(whole[identity] or 0.0 for identity in group) for group in counted]
        assert found.value == pytest.approx(100 * sum(hits) / len(hits))
    else:
        assert told == {str(identity): whole[str(identity)] for identity in seen}
    assert not [note for note in found.notes if "without a reply" in note or "without an answer" in note]
