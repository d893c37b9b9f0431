"""Files that are not what they should be: a message with the place, never a traceback, never a wrong number."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lensmith import DataError, LensmithError
from lensmith.evaluation.choose import benchmark
from lensmith.interfaces.benchmark import Scores

OF_GQA: dict[str, Any] = {
    "question": "What is this?",
    "answer": "dog",
    "imageId": "p",
    "isBalanced": True,
    "types": {"structural": "query", "semantic": "obj", "detailed": "x"},
    "groups": {"global": None, "local": "l"},
    "entailed": ["2"],
    "semantic": [{"operation": "select", "argument": "dog", "dependencies": []}],
}
OF_SEED: dict[str, Any] = {"question": "Which?", "question_id": "7", "data_type": "image", "answer": "A"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one picture."""
    Image.new("RGB", (20, 10), "red").save(tmp_path / "p.png")
    return tmp_path


def written(path: Path, value: Any) -> Path:
    """JSON, or JSON lines for a file `*.jsonl`; text as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, str):
        path.write_text(value)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(entry) + "\n" for entry in value))
    else:
        path.write_text(json.dumps(value))
    return path


def answers(folder: Path, texts: dict[Any, str], **more: Any) -> Path:
    rows = [{"question_id": identity, "prompt": "", "text": text, **more} for identity, text in texts.items()]
    return written(folder / "a.jsonl", rows)


def scored(name: str, predictions: Path, data: Path, *options: str, judge: Any = None, partial: bool = False) -> Scores:
    chosen = benchmark(name, options)
    return chosen.score(replace(chosen.read([predictions]), partial=partial), data, judge)


class TestMmBench:
    @staticmethod
    def table(folder: Path, indices: Sequence[Any]) -> Path:
        rows = "".join(f"{index}\tWhat?\tcat\tdog\tA\n" for index in indices)
        return written(folder / "mmbench_dev_2023.tsv", f"index\tquestion\tA\tB\tanswer\n{rows}")

    def test_of_a_limited_run_whole_groups_count(self, folder: Path) -> None:
        data = self.table(folder, [7, 8, 9, 1000007, 1000008, 1000009])
        asked = answers(folder, {7: "A", 8: "A", 9: "A", 1000007: "B"})
        found = scored("mmbench", asked, data, partial=True)
        # 8 and 9 were right in the one rotation that was asked, which says nothing.
        assert (found.value, found.metrics["groups"], [s.question_id for s in found.samples]) == (0, 1, [7, 1000007])
        assert found.notes == ["2 questions were asked in some of their rotations only, not counted"]

    def test_of_a_limited_run_without_a_whole_group_there_is_no_score(self, folder: Path) -> None:
        data = self.table(folder, [7, 8, 1000007, 1000008])
        with pytest.raises(DataError, match="no question was asked in all rotations of its options"):
            scored("mmbench", answers(folder, {7: "A", 8: "A"}), data, partial=True)

    def test_an_index_that_is_no_number(self, folder: Path) -> None:
        with pytest.raises(DataError, match=r"mmbench_dev_2023\.tsv:3: its index is 'eight', not a whole number"):
            scored("mmbench", answers(folder, {7: "A"}), self.table(folder, [7, "eight"]))

    @pytest.mark.parametrize("content", [b"no archive", b"PK\x05\x06" + bytes(18)])
    def test_a_workbook_that_is_none(self, folder: Path, content: bytes) -> None:
        path = folder / "upload.xlsx"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"upload\.xlsx cannot be read as a table"):
            benchmark("mmbench").read([path])


@pytest.mark.parametrize("name", ["mmbench", "mmlu"])
def test_tables_without_pandas(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(folder / "mmbench_dev_2023.tsv", "index\tquestion\tA\tB\tanswer\n")
    written(folder / "test" / "astronomy_test.csv", "One?,1,2,3,4,A\n")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(LensmithError, match=r"(mmbench_dev_2023|astronomy_test).* pip install 'lensmith\[eval\]'"):
        benchmark(name, ["shots=0"] if name == "mmlu" else []).items(folder, folder)


class TestVqaRows:
    @pytest.mark.parametrize("given", [{"answers": "red"}, {"answers": ["red"]}, {"answer": "red"}])
    def test_one_answer(self, folder: Path, given: dict[str, Any]) -> None:
        data = written(folder / "questions.jsonl", [{"id": 1, "question": "which?", **given}])
        found = scored("vqa", answers(folder, {1: "Red"}), data)
        assert (found.value, found.samples[0].reference) == (100, "red")

    def test_a_number(self, folder: Path) -> None:
        data = written(folder / "questions.jsonl", [{"id": 1, "question": "how many?", "answers": 0}])
        assert scored("vqa", answers(folder, {1: "zero"}), data).value == 100

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"answers": {"answer": "red"}}, "'answers' is {'answer': 'red'}, neither a list of texts nor one"),
            ({"answers": True}, "'answers' is True"),
            ({"answers": [["red"]]}, "no `answers` that are text"),
            ({"answer": "red", "image": 5}, "'image' is 5, not the name of a picture"),
            ({"answer": "red", "image": ["p.png", 5]}, "'image' is 5"),
        ],
    )
    def test_rows_of_another_kind(self, folder: Path, row: dict[str, Any], message: str) -> None:
        good = {"id": 0, "question": "q", "answer": "a", "image": "p.png"}
        data = written(folder / "questions.jsonl", [good, {"id": 1, "question": "which?", **row}])
        with pytest.raises(DataError, match=r"questions\.jsonl:2: ") as refused:
            benchmark("vqa").items(data, folder)
        assert message in str(refused.value)


class TestCaption:
    def test_one_caption(self, folder: Path) -> None:
        rows = [{"id": 1, "image": "p.png", "captions": "a red box"}, {"id": 2, "image": "p.png", "caption": "a sky"}]
        items = benchmark("caption").items(written(folder / "captions.jsonl", rows), folder)
        assert [item.reference for item in items] == ["a red box", "a sky"]

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"id": 1, "image": "p.png", "captions": 5}, "captions: 5"),
            ({"id": 1, "image": "p.png", "captions": {"en": "a sky"}}, "captions: {'en': 'a sky'}"),
            ({"id": [1], "image": "p.png", "captions": ["a sky"]}, "an id that is text or a number"),
            ({"id": 1, "image": 5, "captions": ["a sky"]}, "'image' is 5, not the name of a picture"),
        ],
    )
    def test_rows_of_another_kind(self, folder: Path, row: dict[str, Any], message: str) -> None:
        data = written(folder / "captions.jsonl", [{"id": 0, "image": "p.png", "caption": "x"}, row])
        with pytest.raises(DataError, match=r"captions\.jsonl:2: ") as refused:
            benchmark("caption").items(data, folder)
        assert message in str(refused.value)

    @pytest.mark.parametrize(
        ("annotation", "message"),
        [
            ({"image_id": 3, "caption": "x"}, "annotation 2: its picture 3 is not among the `images`"),
            ({"image_id": 1}, "annotation 2: no 'caption'"),
        ],
    )
    def test_coco(self, folder: Path, annotation: dict[str, Any], message: str) -> None:
        annotations = [{"image_id": 1, "caption": "a sky"}, annotation]
        document = {"images": [{"id": 1, "file_name": "p.png"}], "annotations": annotations}
        data = written(folder / "captions_val.json", document)
        with pytest.raises(DataError) as refused:
            benchmark("caption").items(data, folder)
        assert f"captions_val.json, {message}" in str(refused.value)


class TestGqa:
    @pytest.mark.parametrize(
        ("lost", "message"),
        [
            ({"isBalanced": None}, "question 1: no 'isBalanced' that is true or false"),
            ({"types": {"structural": "query"}}, "question 1, types: no 'semantic'"),
            ({"types": "query"}, "question 1: 'types' is 'query'"),
            ({"groups": None}, "question 1: 'groups' is None"),
            ({"semantic": [{"operation": "select"}]}, "question 1, semantic: no 'argument'"),
        ],
    )
    def test_questions(self, folder: Path, lost: dict[str, Any], message: str) -> None:
        data = written(folder / "testdev_balanced_questions.json", {"1": {**OF_GQA, **lost}})
        with pytest.raises(DataError) as refused:
            scored("gqa", answers(folder, {"1": "dog"}), data)
        assert f"testdev_balanced_questions.json, {message}" in str(refused.value)

    def test_options_that_need_more_than_the_balanced_questions(self, folder: Path) -> None:
        written(folder / "testdev_balanced_questions.json", {"1": OF_GQA})
        written(folder / "testdev_balanced_choices.json", {"9": {"valid": [], "plausible": []}})
        asked = answers(folder, {"1": "dog"})
        with pytest.raises(DataError, match="question 1 entails 2, not among the questions"):
            scored("gqa", asked, folder, "consistency=true")
        with pytest.raises(DataError, match="question 1 is not in the file of choices"):
            scored("gqa", asked, folder, "choices=true")
        written(folder / "q_questions.json", {"1": {k: v for k, v in OF_GQA.items() if k != "imageId"}})
        with pytest.raises(DataError, match="question 1: no 'imageId'"):
            benchmark("gqa").items(folder / "q_questions.json", folder)


class TestSeed:
    def test_a_type_that_is_not_there(self, folder: Path) -> None:
        questions = [{**OF_SEED, "question_type_id": kind} for kind in (1, 13)]
        data = written(folder / "SEED-Bench.json", {"question_type": {"Scene": 1}, "questions": questions})
        with pytest.raises(
            DataError, match=r"SEED-Bench.json, question 2: its question_type_id 13 is not among .*\(1\)"
        ):
            scored("seed", answers(folder, {7: "A"}), data)

    def test_a_question_without_its_options(self, folder: Path) -> None:
        questions = [{**OF_SEED, "question_type_id": 1}]
        data = written(folder / "SEED-Bench.json", {"question_type": {"Scene": 1}, "questions": questions})
        with pytest.raises(DataError, match="question 7: no 'data_id'"):
            benchmark("seed").items(data, folder)


@pytest.mark.parametrize("given", [["red"] * 10, "red"])
def test_answers_of_annotators_as_mere_texts(folder: Path, given: Any) -> None:
    place = "answer 1: a str where" if isinstance(given, list) else "'answers' is 'red'"
    entry = {"question_id": 1, "answer_type": "other", "question_type": "what", "answers": given}
    annotations = written(folder / "v2_mscoco_val2014_annotations.json", {"annotations": [entry]})
    with pytest.raises(DataError) as refused:
        scored("vqav2", answers(folder, {1: "red"}), annotations)
    assert f"{annotations}, annotation 1" in str(refused.value)
    assert place in str(refused.value)
    entries = written(folder / "val.json", [{"image": "p.png", "question": "What?", "answers": given}])
    for act in (
        lambda: scored("vizwiz", answers(folder, {0: "red"}), entries),
        lambda: benchmark("vizwiz").items(entries, folder),
    ):
        with pytest.raises(DataError) as refused:
            act()
        assert f"{entries}, entry 1" in str(refused.value)
        assert place in str(refused.value)


def test_vizwiz_of_texts_is_no_traceback(folder: Path) -> None:
    with pytest.raises(DataError, match=r"val\.json: not a list of"):
        scored("vizwiz", answers(folder, {0: "red"}), written(folder / "val.json", ["red"]))


class TestMmlu:
    @pytest.mark.parametrize(
        "told",
        [{"A": "-1.0", "B": "-2.0"}, {"BC": None, " A": -1.0, " B": None}, [-1, -2, "x", -3], [True, -1, -2, -3]],
    )
    def test_log_probabilities_by_subject(self, folder: Path, told: Any) -> None:
        path = written(folder / "p.json", {"astronomy": ["A", told]})
        with pytest.raises(DataError, match=r"p\.json:1, astronomy, entry 2: the log-probability of [ABC] is"):
            benchmark("mmlu").read([path])

    def test_log_probabilities_of_a_line(self, folder: Path) -> None:
        written(folder / "test" / "astronomy_test.csv", "One?,1,2,3,4,A\n")
        asked = answers(folder, {"astronomy/0": "A"}, logprobs={"A": "likely", "B": -1.0})
        with pytest.raises(DataError, match=r"a\.jsonl:1: the log-probability of A is 'likely', not a number"):
            scored("mmlu", asked, folder)

    def test_probabilities_of_the_original(self, folder: Path) -> None:
        head = ",".join(f"e_choice{letter}_probs" for letter in "ABCD")
        path = written(folder / "results" / "astronomy.csv", f"{head}\n.1,.7,.1,.1\n.1,none?,.1,.1\n")
        with pytest.raises(DataError, match=r"astronomy\.csv:3: the probability of a letter is 'none\?', not a number"):
            benchmark("mmlu").read([path.parent])


class TestPope:
    @pytest.fixture
    def data(self, folder: Path) -> Path:
        label = {"question_id": 1, "image": "p.png", "text": "Is there a dog in the image?", "label": "yes"}
        for category in ("adversarial", "popular", "random"):
            written(folder / "coco" / f"coco_pope_{category}.json", json.dumps(label) + "\n")
        return folder / "coco"

    def test_categories_without_predictions_are_named(self, folder: Path, data: Path) -> None:
        asked = answers(folder, {1: "yes"}, category="popular")
        (note,) = scored("pope", asked, data).notes
        assert note.startswith("no predictions for adversarial, random, of which there are labels")
        assert scored("pope", asked, data, partial=True).notes == []

    def test_no_note_where_all_are_there(self, folder: Path, data: Path) -> None:
        assert scored("pope", answers(folder, {1: "yes", 10000001: "yes", 20000001: "yes"}), data).notes == []


@pytest.mark.parametrize("name", ["llava_bench", "vicuna80"])
class TestPairwise:
    @pytest.fixture
    def data(self, folder: Path) -> Path:
        questions = [{"question_id": n, "image": "p.png", "text": f"Q{n}?", "category": "conv"} for n in range(3)]
        written(folder / "questions.jsonl", questions)
        written(folder / "context.jsonl", [{"image": "p.png", "caption": ["A", "box."]}])
        written(folder / "answers_reference.jsonl", [{"question_id": n, "text": f"reference {n}"} for n in range(3)])
        return folder

    @staticmethod
    def told(*replies: str) -> Any:
        return lambda requests: list(replies)

    def test_answers_beside_another_question(self, name: str, data: Path) -> None:
        judge = self.told("8 6", "8 6", "8 6")
        in_order = scored(name, answers(data, {0: "a", "1": "b", 2: "c"}), data, "repeats=1", judge=judge)
        assert in_order.notes == []
        moved = answers(data, {1: "b", 0: "a", 2: "c"})
        (note,) = scored(name, moved, data, "repeats=1", judge=judge).notes
        assert note.startswith("2 answers stand beside a question with another id")
        assert scored(name, moved, data, "repeats=1", "pairing=id", judge=judge).notes == []
        written(data / "answers_reference.jsonl", [{"question_id": n, "text": "r"} for n in (0, 1, 7)])
        (note,) = scored(name, answers(data, dict.fromkeys(range(3), "a")), data, "repeats=1", judge=judge).notes
        assert note.startswith("1 reference answers stand beside a question with another id")

    @pytest.mark.parametrize("mark", ["nan", "inf"])
    def test_marks_that_are_not_finite(self, name: str, data: Path, mark: str) -> None:
        asked = answers(data, dict.fromkeys(range(3), "a"))
        judge = self.told("8 6", f"8 {mark}", "8 4")
        found = scored(name, asked, data, "repeats=1", judge=judge)
        assert (found.value, found.metrics["unparsable_replies"]) == (62.5, 1)
        assert "1 of the judge's replies hold no two scores, left out: 1 (run 1)" in found.notes
        assert [sample.score for sample in found.samples] == [0.6, None, 0.4]
        paper = scored(name, asked, data, "repeats=1", "unparsable=paper", judge=judge)
        assert str(paper.value) == str(found.metrics["as_in_the_paper"]["all"]["relative"]) == mark
        assert paper.metrics["unparsable_replies"] == 0

    def test_reviews_that_are_not_finite(self, name: str, data: Path) -> None:
        reviews = [{"question_id": n, "category": "c", "tuple": [8, m]} for n, m in enumerate([6, float("nan"), 4])]
        assert scored(name, written(data / "r.jsonl", reviews), data).value == 62.5


def test_marks_of_fastchat_that_are_not_finite(folder: Path) -> None:
    marks = [{"question_id": n, "model": "m", "score": mark} for n, mark in enumerate([8, float("nan"), 5])]
    path = written(folder / "j.jsonl", marks)
    found = scored("vicuna80", path, folder)
    assert (found.value, found.notes) == (6.5, ["1 judgments without a mark, left out: 1"])
    assert str(scored("vicuna80", path, folder, "unparsable=paper").value) == "nan"


def test_turns_that_are_a_text(folder: Path) -> None:
    written(folder / "question.jsonl", [{"question_id": 1, "category": "generic", "turns": "Hello?"}])
    with pytest.raises(DataError, match=r"question\.jsonl:1: neither `text` nor `turns`"):
        benchmark("vicuna80").items(folder, folder)


def test_a_context_without_captions(folder: Path) -> None:
    question = {"question_id": 1, "image": "p.png", "text": "Q?", "category": "conv"}
    written(folder / "questions.jsonl", [question])
    written(folder / "answers_gpt4.jsonl", [{"question_id": 1, "text": "r"}])
    written(folder / "context.jsonl", [{"image": "p.png"}])
    with pytest.raises(DataError, match=r"context\.jsonl:1: no 'caption'"):
        scored("llava_bench", answers(folder, {1: "a"}), folder, judge=lambda requests: [])
