"""Rules of the benchmarks without golden cases here, on cases small enough to count by hand."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lensmith import DataError
from lensmith.evaluation.choose import benchmark
from lensmith.interfaces.benchmark import Scores
from lensmith_plugins.benchmarks.mmlu import best_letter

Write = Callable[[str, Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write JSON, or JSON lines for a list in a file `*.jsonl`; other text as it is."""

    def one(name: str, value: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, str):
            path.write_text(value)
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(entry) + "\n" for entry in value))
        else:
            path.write_text(json.dumps(value))
        return path

    return one


def scored(name: str, predictions: Path, *options: str, data: Path | None = None, partial: bool = False) -> Scores:
    chosen = benchmark(name, options)
    read = replace(chosen.read([predictions]), partial=partial)
    return chosen.score(read, data or predictions.parent)


def told(texts: dict[Any, str]) -> list[dict[str, Any]]:
    return [{"question_id": identity, "prompt": "", "text": text} for identity, text in texts.items()]


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(buffer, "PNG")
    return buffer.getvalue()


class TestGqa:
    @pytest.fixture
    def data(self, write: Write) -> Path:
        def question(answer: str, structural: str, *, balanced: bool = True, **more: Any) -> dict[str, Any]:
            steps = [
                ("select", "dog"),
                ("exist", "?"),
                ("query", "name"),
                ("filter color", "red"),
                ("choose name", "x"),
            ]
            return {
                "question": "What is this thing?",
                "answer": answer,
                "imageId": "1",
                "isBalanced": balanced,
                "types": {"structural": structural, "semantic": "attr", "detailed": more.pop("detailed", "x")},
                "groups": {"global": more.pop("group", "thing"), "local": "l"},
                "entailed": more.pop("entailed", []),
                "semantic": [{"operation": op, "argument": arg, "dependencies": []} for op, arg in steps],
            }

        questions = {
            "1": question("yes", "verify", entailed=["1", "3", "4"]),
            "2": question("blue", "query", detailed="sameCommon"),
            "3": question("no", "logical", group=None),
            "4": question("red", "query", balanced=False),
        }
        choices = {i: {"valid": ["blue", "yes", "no"], "plausible": ["yes"]} for i in questions}
        write("testdev_balanced_choices.json", choices)
        return write("testdev_balanced_questions.json", questions).parent

    def test_scores(self, data: Path, write: Write) -> None:
        answers = write("a.jsonl", told({"1": "Yes..", "2": "blue. ", "3": "No"}))
        found = scored("gqa", answers)
        assert found.metrics["accuracy"] == pytest.approx(200 / 3)
        assert found.metrics["binary"] == 100
        assert found.metrics["open"] == 0
        assert found.metrics["structural"] == {"logical": 100, "query": 0, "verify": 100}
        assert found.metrics["words"] == {"4": pytest.approx(200 / 3)}
        assert found.metrics["steps"] == {"2": pytest.approx(200 / 3)}
        # Of the group's yes and blue, one each, blue was never said: (1 + 0) * 2 / 2 / 100.
        assert found.metrics["distribution"] == pytest.approx(0.01)
        assert scored("gqa", answers, "upload=raw").value == 0

    def test_official_predictions_are_not_converted(self, data: Path, write: Write) -> None:
        rows = [{"questionId": i, "prediction": p} for i, p in {"1": "Yes", "2": "blue", "3": "no"}.items()]
        found = scored("gqa", write("p.json", rows), "choices=true")
        assert found.value == pytest.approx(200 / 3)
        assert found.metrics["validity"] == pytest.approx(
            100 / 3
        )  # of a Common question only colours and the like count
        assert found.metrics["plausibility"] == 0

    def test_consistency_needs_the_entailed_questions(self, data: Path, write: Write) -> None:
        three = {"1": "yes", "2": "blue", "3": "yes"}
        with pytest.raises(DataError, match="1 questions have no prediction: 4"):
            scored("gqa", write("a.jsonl", told(three)), "consistency=true")
        found = scored("gqa", write("b.jsonl", told({**three, "4": "red"})), "consistency=true")
        assert found.metrics["consistency"] == 50  # question 1 entails 3, which is wrong, and 4
        with pytest.raises(DataError, match="1 questions have no prediction: 3"):
            scored("gqa", write("c.jsonl", told({"1": "yes", "2": "blue"})))
        part = scored("gqa", write("d.jsonl", told({"1": "yes", "4": "red"})), "consistency=true", partial=True)
        assert (part.value, part.metrics["consistency"]) == (100, 100)


class TestSeed:
    @pytest.fixture
    def data(self, write: Write) -> Path:
        options = {f"choice_{letter}": f"option {letter}" for letter in "abcd"}
        common = {"question": "Which?", "data_id": "p.png", **options}
        questions = [
            {**common, "question_id": "7", "question_type_id": 1, "data_type": "image", "answer": "A"},
            {**common, "question_id": "8", "question_type_id": 1, "data_type": "image", "answer": "B"},
            {**common, "question_id": "v0", "question_type_id": 10, "data_type": "video", "answer": "C"},
        ]
        types = {"Scene": 1, "Action": 10}
        return write("SEED-Bench.json", {"question_type": types, "questions": questions}).parent

    def test_only_the_letter_counts(self, data: Path, write: Write) -> None:
        answers = write("a.jsonl", told({7: "A", 8: "B.", "v0": "C"}))
        found = scored("seed", answers, data=data / "SEED-Bench.json")
        assert found.metrics["types"] == {"Scene": 50, "Action": 100}
        assert (found.metrics["image"], found.metrics["video"]) == (50, 100)
        assert found.value == pytest.approx(200 / 3)
        assert scored("seed", answers, "matching=first_letter", data=data / "SEED-Bench.json").value == 100
        part = scored("seed", write("p.jsonl", told({7: "A"})), data=data / "SEED-Bench.json", partial=True)
        assert (part.value, len(part.samples)) == (100, 1)

    def test_ids_as_text_and_lost_answers(self, data: Path, write: Write) -> None:
        found = scored("seed", write("a.jsonl", told({"7": "A", 8: "B"})), data=data / "SEED-Bench.json")
        assert found.value == pytest.approx(200 / 3)
        assert found.notes == ["1 questions without an answer, wrong: v0"]

    def test_upload(self, data: Path, write: Write, tmp_path: Path) -> None:
        chosen = benchmark("seed")
        read = chosen.read([write("a.jsonl", told({7: "A", 8: "B.", "v0": "C"}))])
        (path,) = chosen.submission(read, data / "SEED-Bench.json", tmp_path)
        assert [json.loads(line) for line in path.read_text().splitlines()] == [
            {"question_id": "7", "prediction": "A"},
            {"question_id": "8", "prediction": "B."},
            {"question_id": "v0", "prediction": "C"},
        ]
        assert len(chosen.read([path]).rows) == 3


class TestMmlu:
    @pytest.fixture
    def data(self, write: Write) -> Path:
        write("dev/astronomy_dev.csv", "Dev?,1,2,3,4,B\nMore?,a,b,c,d,C\n")
        write("test/astronomy_test.csv", 'One?,1,2,,4,A\n"Two, then?",5,6,7,8,D\n')
        write("dev/world_religions_dev.csv", "Dev?,1,2,3,4,B\n")
        return write("test/world_religions_test.csv", "Three?,x,None,y,z,C\n").parents[1]

    def test_prompts(self, data: Path) -> None:
        items = benchmark("mmlu", ["shots=2"]).items(data, data)
        head = "The following are multiple choice questions (with answers) about  astronomy.\n\n"
        one = "Dev?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\n"
        two = "More?\nA. a\nB. b\nC. c\nD. d\nAnswer: C\n\n"
        # pandas makes floats of a column of integers with an empty cell.
        asked = "One?\nA. 1\nB. 2\nC. nan\nD. 4\nAnswer:"
        assert items[0].prompt == head + one + two + asked
        assert items[0].fallbacks == (head + one + asked, head + asked)
        assert items[0].choices == (" A", " B", " C", " D")
        assert items[1].prompt.endswith("Two, then?\nA. 5\nB. 6\nC. 7.0\nD. 8\nAnswer:")
        assert items[2].prompt.endswith(
            "about  world religions.\n\n" + one + "Three?\nA. x\nB. nan\nC. y\nD. z\nAnswer:"
        )

    def test_scores(self, data: Path, write: Write) -> None:
        lists = {"astronomy": ["A", {" A": -1.0, " D": -0.5}], "world_religions": [[-2, -1, -1, -3]]}
        found = scored("mmlu", write("letters.json", lists), data=data)
        assert found.value == pytest.approx(200 / 3)
        assert found.metrics["categories"] == {"philosophy": 0, "physics": 100}
        assert found.metrics["groups"] == {"STEM": 100, "humanities": 0}
        with pytest.raises(DataError, match="1 questions have no answer: astronomy/1"):
            scored("mmlu", write("few.json", {"astronomy": ["A"], "world_religions": ["C"]}), data=data)
        assert scored("mmlu", write("part.json", {"astronomy": ["A"]}), data=data, partial=True).value == 100

    def test_results_of_the_original(self, data: Path, write: Write) -> None:
        names = ",".join(["0", "1", "2", "3", "4", "5", "e_correct", *(f"e_choice{x}_probs" for x in "ABCD")])
        write("results_e/astronomy.csv", f"{names}\nq,1,2,3,4,A,True,.4,.3,.2,.1\nq,1,2,3,4,D,True,.1,.1,.1,.7\n")
        folder = write("results_e/world_religions.csv", f"{names}\nq,1,2,3,4,C,False,.4,.4,.1,.1\n").parent
        found = scored("mmlu", folder, data=data)
        assert [sample.read_as for sample in found.samples] == ["A", "D", "A"]

    def test_letters_that_did_not_come_back(self) -> None:
        assert best_letter({"B": -99.0}) == "B"
        assert best_letter({"B": -101.0}) == "A"


class TestVicuna80:
    @pytest.fixture
    def data(self, write: Write) -> Path:
        kinds = ["generic", "coding", "math"]
        write("answers_reference.jsonl", [{"question_id": n, "text": f"reference {n}"} for n in range(3)])
        write("mine.jsonl", told({n: f"answer {n}" for n in range(3)}))
        questions = [{"question_id": n, "text": f"Q{n}?", "category": kind} for n, kind in enumerate(kinds)]
        return write("question.jsonl", questions).parent

    def test_requests_by_category(self, data: Path) -> None:
        chosen = benchmark("vicuna80")
        requests = chosen.requests(chosen.read([data / "mine.jsonl"]), data)
        contents = [request.messages[1]["content"] for request in requests]
        assert contents[0].startswith(
            "[Question]\nQ0?\n\n[Assistant 1]\nreference 0\n\n[End of Assistant 1]\n\n"
            "[Assistant 2]\nanswer 0\n\n[End of Assistant 2]\n\n[System]\nWe would like to request your feedback on the"
            " performance"
        )
        assert "[System]\nYour task is to evaluate the coding abilities" in contents[1]
        assert "mathematical proficiency" in contents[2]
        assert {(r.model, r.temperature) for r in requests} == {("gpt-4", 0.2)}

    def test_runs_are_averaged(self, data: Path, write: Write) -> None:
        first = [{"question_id": n, "category": "generic", "tuple": [8, 6 + n]} for n in range(2)]
        second = [{"question_id": n, "category": "generic", "tuple": [10, 9]} for n in range(2)]
        chosen = benchmark("vicuna80")
        read = chosen.read([write("1.jsonl", first), write("2.jsonl", second)])
        found = chosen.score(read, data)
        assert found.metrics["all"]["runs"] == [81.2, 90.0]
        assert found.value == pytest.approx(85.6)

    def test_marks_of_fastchat(self, data: Path, write: Write) -> None:
        marks = [{"question_id": n, "model": "m", "score": score, "judgment": ""} for n, score in enumerate([8, -1, 5])]
        found = scored("vicuna80", write("j.jsonl", marks))
        assert found.value == 6.5
        assert any("1 judgments without a mark, left out: 1" in note for note in found.notes)


class TestMmBenchCn:
    @pytest.fixture
    def table(self, tmp_path: Path) -> Path:
        image = base64.b64encode(picture()).decode()
        header = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tsource\tl2-category\tcomment\tsplit\n"
        rows = [
            f"7\t这是什么？\t提示。\t猫\t狗\t牛\t\tB\tocr\t{image}\ts\tlogic_reasoning\t\tdev\n",
            f"1000007\t这是什么？\t\t牛\t猫\t狗\t\tC\tocr\t{image}\ts\tlogic_reasoning\t\tdev\n",
            f"2000007\t这是什么？\tnan\t狗\tNone\t猫\t牛\tA\tocr\t{image}\ts\tlogic_reasoning\t\tdev\n",
        ]
        path = tmp_path / "mmbench_dev_cn_20231003.tsv"
        path.write_text(header + "".join(rows))
        return path

    def test_prompts(self, table: Path) -> None:
        items = benchmark("mmbench_cn").items(table, table.parent)
        assert items[0].prompt == "提示。\n这是什么？\nA. 猫\nB. 狗\nC. 牛\n请直接回答选项字母。"
        assert items[0].images == (picture(),)
        assert items[2].prompt == "这是什么？\nA. 狗\n请直接回答选项字母。"  # an option called None cuts the list
        assert items[1].extra["option_char"] == ["A", "B", "C"]

    def test_one_wrong_rotation_loses_the_question(self, table: Path, write: Write) -> None:
        right = {7: "B", 1000007: "狗", 2000007: "A."}
        assert scored("mmbench_cn", write("a.jsonl", told(right)), data=table).value == 100
        wrong = scored("mmbench_cn", write("b.jsonl", told({**right, 1000007: "猫"})), data=table)
        assert wrong.value == 0
        assert wrong.metrics["one_round"] == 100
        assert wrong.metrics["abilities"] == {"LR": 0}


class TestOwnRows:
    def test_vqa(self, write: Write) -> None:
        rows = [
            {"id": 1, "question": "a?", "answers": ["Two cats"], "category": "x"},
            {"id": 2, "question": "b?", "answers": ["red", "red", "blue", "blue", "blue"]},
            {"id": 3, "question": "c?", "answer": "the dog"},
        ]
        data = write("questions.jsonl", rows)
        found = scored("vqa", write("p.jsonl", told({1: "2 dogs", 2: "Red.", 4: "?"})), data=data)
        # Of five annotators two said red: three times 2/3 and twice 1/3.
        assert found.metrics["vqa_accuracy"] == pytest.approx(100 * ((3 * 2 + 2 * 1) / 15) / 3)
        assert found.metrics["exact_match"] == pytest.approx(100 / 3)
        assert found.metrics["f1"] == pytest.approx(100 * (0.5 + 1) / 3)
        assert [note for note in found.notes if "1 questions without an answer" in note]
        part = scored("vqa", write("part.jsonl", told({3: "the dog"})), data=data, partial=True)
        assert (part.value, len(part.samples), part.notes) == (100, 1, [])

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"question": "a?", "answer": "b"}, "no `id`"),
            ({"id": 1, "question": "a?"}, "no `answers`"),
            ({"id": 1, "answers": ["x"]}, "no `question`"),
            ([1], "where a row has an object"),
        ],
    )
    def test_rows_that_are_none(self, row: Any, message: str, write: Write) -> None:
        data = write("questions.jsonl", [{"id": 0, "question": "q", "answer": "a"}, row])
        with pytest.raises(DataError, match=r"questions\.jsonl:2") as refused:
            scored("vqa", write("p.jsonl", told({0: "x"})), data=data)
        assert message in str(refused.value)

    def test_captions(self, write: Write) -> None:
        pytest.importorskip("pycocoevalcap")
        truth = {1: "A red square on a table.", 2: "Two green cats sleep here now!", 3: "Blue sky over the old town"}
        rows = [
            {"id": n, "image": f"{n}.png", "captions": [text, "something else entirely"]} for n, text in truth.items()
        ]
        data = write("captions.jsonl", rows)
        perfect = scored(
            "caption", write("p.jsonl", told({n: t.lower().strip(".!") for n, t in truth.items()})), data=data
        )
        assert perfect.metrics["bleu_4"] == pytest.approx(100, abs=1e-3)
        assert perfect.metrics["rouge_l"] == pytest.approx(100)
        coco = {
            "images": [{"id": n, "file_name": f"{n}.png"} for n in truth],
            "annotations": [
                {"image_id": n, "caption": c} for n, row in zip(truth, rows, strict=True) for c in row["captions"]
            ],
        }
        results = [{"image_id": n, "caption": "a red square"} for n in truth]
        one = scored("caption", write("r.json", results), data=write("captions_val.json", coco))
        two = scored("caption", write("r.jsonl", told(dict.fromkeys(truth, "a red square"))), data=data)
        assert one.metrics == two.metrics
        part = scored("caption", write("part.jsonl", told({2: truth[2]})), data=data, partial=True)
        assert (part.metrics["pictures"], part.metrics["rouge_l"], len(part.samples)) == (1, pytest.approx(100), 1)
        assert 0 < one.metrics["cider"] < perfect.metrics["cider"]


class TestQuestions:
    """What the model is asked, from the official files."""

    def test_pope_numbers_its_categories(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "p.png").write_bytes(picture())
        label = {"question_id": 1, "image": "p.png", "text": "Is there a dog in the image?", "label": "yes"}
        for category in ("random", "popular", "adversarial"):
            write(f"coco_pope_{category}.json", json.dumps(label) + "\n" + json.dumps({**label, "label": "no"}) + "\n")
        items = benchmark("pope").items(tmp_path, tmp_path)
        assert [item.question_id for item in items] == [1, 2, 10000001, 10000002, 20000001, 20000002]
        assert items[0].prompt == "Is there a dog in the image?\nAnswer the question using a single word or phrase."
        lines = [{**told({i.question_id: "yes"})[0], **i.extra} for i in items]
        found = scored("pope", write("a.jsonl", lines))
        assert found.metrics["popular"]["accuracy"] == 50
        assert scored("pope", write("a.jsonl", lines), "pairing=id").metrics == found.metrics
        numbered = [{"question_id": line["question_id"], "text": "yes"} for line in lines]
        assert scored("pope", write("b.jsonl", numbered)).metrics == found.metrics

    def test_textvqa_with_and_without_tokens(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "abc.jpg").write_bytes(picture())
        entry = {"question_id": 5, "image_id": "abc", "question": "what does It say?", "answers": ["stop"] * 10}
        write("TextVQA_0.5.1_val.json", {"data": [entry]})
        write("TextVQA_Rosetta_OCR_v0.2_val.json", {"data": [{"image_id": "abc", "ocr_tokens": ["STOP", "now"]}]})
        (item,) = benchmark("textvqa").items(tmp_path, tmp_path)
        assert item.prompt == (
            "What does it say?\nReference OCR token: STOP, now\nAnswer the question using a single word or phrase."
        )
        (plain,) = benchmark("textvqa", ["ocr=false"]).items(tmp_path, tmp_path)
        for asked in (item, plain):
            line = {"question_id": asked.question_id, "prompt": asked.prompt, "text": "Stop!"}
            assert scored("textvqa", write("a.jsonl", [line])).value == 100

    def test_scienceqa_says_which_prompts_have_a_picture(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "test" / "1").mkdir(parents=True)
        (tmp_path / "test" / "1" / "image.png").write_bytes(picture())
        problem = {"question": "What?", "choices": ["a", "b"], "answer": 1, "hint": "", "image": None}
        write("problems.json", {"1": {**problem, "hint": "Look.", "image": "image.png"}, "2": problem})
        write("pid_splits.json", {"test": ["1", "2"]})
        one, two = benchmark("scienceqa", ["subset=all"]).items(tmp_path, tmp_path)
        sentence = "Answer with the option's letter from the given choices directly."
        assert one.prompt == f"Context: Look.\nWhat?\nA. a\nB. b\n{sentence}"
        assert one.extra["prompt"] == f"<image>\n{one.prompt}"
        assert (two.images, two.prompt) == ((), f"What?\nA. a\nB. b\n{sentence}")
        lines = [{"question_id": i.question_id, "text": t, **i.extra} for i, t in ((one, "B"), (two, "A"))]
        found = scored("scienceqa", write("a.jsonl", lines))
        assert (found.value, found.metrics["accuracy"]) == (100, 50)

    def test_a_picture_that_is_not_there(self, write: Write, tmp_path: Path) -> None:
        write("testdev.json", [])
        entry = {"image": "VizWiz_test_0.jpg", "question": "What is this?"}
        write("test.json", [entry])
        with pytest.raises(DataError, match=r"no picture VizWiz_test_0\.jpg .*--images"):
            benchmark("vizwiz").items(tmp_path / "test.json", tmp_path)
        (tmp_path / "deep" / "er").mkdir(parents=True)
        (tmp_path / "deep" / "er" / "VizWiz_test_0.jpg").write_bytes(picture())
        (item,) = benchmark("vizwiz").items(tmp_path / "test.json", tmp_path)
        assert item.prompt == (
            "What is this?\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
            "Answer the question using a single word or phrase."
        )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vqav2", '{"question_id": 1}\n', r"p.jsonl:1: no 'text'; an answer line has question_id, text"),
        ("gqa", '{"question_id": "1", "text": "a"}\n{"question_id": "2", "text": 3}\n', r"p.jsonl:2: 'text' is 3"),
        ("seed", '{"question_id": 1, "text": "A"}\nnonsense\n', r"p.jsonl:2: not valid JSON"),
        ("pope", "[]", r"holds no predictions. Read here: LLaVA's answer lines, POPE's own"),
        ("mmvet", '{"v1_0": 3}', r"p.jsonl:1: v1_0 is 3, neither a reply nor grades"),
        ("mme", "3\n", r"p.jsonl:1: a int where an answer line has an object"),
        ("llava_bench", '{"question_id": 1, "tuple": [1]}\n', r"p.jsonl:1: 'tuple' is \[1\], not two scores"),
        ("mmlu", '{"astronomy": [3]}', r"astronomy, entry 1: 3 is neither a letter"),
        ("vizwiz", "no\nno\n", r"holds no JSON in any of its 2 lines"),
    ],
)
def test_wrong_predictions_name_the_line(name: str, content: str, message: str, write: Write) -> None:
    with pytest.raises(DataError, match=message):
        benchmark(name).read([write("p.jsonl", content)])


def test_pope_without_categories_is_not_guessed(write: Write) -> None:
    label = {"question_id": 1, "image": "p.png", "text": "Is there a dog in the image?", "label": "yes"}
    for category in ("random", "popular"):
        write(f"coco/coco_pope_{category}.json", json.dumps(label) + "\n")
    answers = write("a.jsonl", told({1: "yes", 2: "no"}))
    with pytest.raises(DataError, match="2 replies seem to be of the category popular, which has 1 labels"):
        scored("pope", answers, data=answers.parent / "coco")
    asked = [
        {"question_id": n, "image": "p.png", "text": "?", "category": c} for n, c in ((1, "random"), (2, "popular"))
    ]
    write("llava_pope_test.jsonl", asked)
    found = scored("pope", answers, data=answers.parent / "coco")
    assert [found.metrics[category]["accuracy"] for category in ("random", "popular")] == [100, 0]
