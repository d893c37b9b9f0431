"""A21: whatever stands in a benchmark's files, one line says which file and record, and nothing else is raised."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lensmith import DataError, LensmithError
from lensmith.evaluation.choose import benchmark

pandas = pytest.importorskip("pandas")
pytest.importorskip("openpyxl")
pytest.importorskip("pycocoevalcap")
Get = Callable[[str], Any]
WITH_JSON = [
    *("vqav2", "gqa", "vizwiz", "scienceqa", "textvqa", "pope", "seed", "llava_bench", "mmvet", "vicuna80", "vqa"),
    "caption",
]
INSTEAD = (None, 5, [], {"a": None}, [None])
GONE = object()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to every value in a document, of lists to those of the first element."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    document = copy.deepcopy(document)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return document


def refusal(act: Callable[[], Any]) -> str:
    """The message of a refusal; empty where there is none."""
    try:
        act()
    except LensmithError as error:
        return str(error) or "no message"
    return ""


def written(path: Path, value: Any) -> None:
    if isinstance(value, list) and (path.suffix == ".jsonl" or "coco_pope" in path.name):
        path.write_text("".join(json.dumps(entry) + "\n" for entry in value))
    else:
        path.write_text(json.dumps(value))


@pytest.mark.parametrize("name", WITH_JSON)
def test_A21_other_values_in_the_official_files(name: str, material: Get, tmp_path: Path) -> None:
    of = material(name)
    folder = of.write(tmp_path)
    answers = folder / "zz_predictions.jsonl"
    lines = "".join(json.dumps(line) + "\n" for line in of.answers)
    refused = 0
    for file, document in of.files.items():
        if isinstance(document, str):
            continue
        for path in places(document):
            for value in (*INSTEAD, GONE):
                written(folder / file, changed(document, path, value))
                answers.unlink(missing_ok=True)
                chosen = benchmark(name, of.options)
                assert "\n" not in refusal(lambda: chosen.items(folder, folder))  # noqa: B023
                answers.write_text(lines)
                said = refusal(lambda: chosen.score(chosen.read([answers]), folder, of.judge))  # noqa: B023
                assert "\n" not in said, (file, path, value)
                refused += bool(said)
        written(folder / file, document)
    assert refused


@pytest.mark.parametrize("name", [*WITH_JSON, "mme", "mmbench", "mmbench_cn", "mmlu"])
@pytest.mark.parametrize("value", [None, 5, ["red"], {"a": 1}, True])
def test_A21_a_reply_that_is_no_text(name: str, value: Any, material: Get, tmp_path: Path) -> None:
    of = material(name)
    path = of.write(tmp_path) / "zz_predictions.jsonl"
    rows = [of.answers[0], {**of.answers[1], "text": value}]
    path.write_text("".join(json.dumps(line) + "\n" for line in rows))
    with pytest.raises(DataError, match=r"zz_predictions\.jsonl:2: 'text' is "):
        benchmark(name, of.options).read([path])


def workbook() -> bytes:
    file = io.BytesIO()
    table = {"index": [7, 8], "question": ["What?"] * 2, "A": ["cat"] * 2, "B": ["dog"] * 2}
    pandas.DataFrame({**table, "answer": ["A", "B"], "prediction": ["A", "B"]}).to_excel(file, index=False)
    return file.getvalue()


def repacked(change: Callable[[str, bytes], bytes]) -> bytes:
    """The workbook with its members changed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(workbook())) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return file.getvalue()


def bomb(name: str, content: bytes) -> bytes:
    if name != "xl/worksheets/sheet1.xml":
        return content
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    head, body = content[:0], content
    if content.startswith(b"<?xml"):
        head, _, body = content.partition(b"?>")
        head += b"?>"
    return head + f'<!DOCTYPE b [<!ENTITY l0 "ha">{entities}]>'.encode() + body.replace(b"cat", b"&l9;")


DAMAGED = {
    "no archive": lambda: b"no archive",
    "empty": lambda: b"",
    "cut": lambda: workbook()[:900],
    "entities": lambda: repacked(bomb),
    "sheet of garbage": lambda: repacked(lambda n, c: b"<<<" if "sheet1" in n else c),
    "sheet cut": lambda: repacked(lambda n, c: c[: len(c) // 2] if "sheet1" in n else c),
    "no sheets": lambda: repacked(lambda n, c: b"<workbook/>" if n == "xl/workbook.xml" else c),
    "types": lambda: repacked(lambda n, c: b"<Types/>" if n == "[Content_Types].xml" else c),
    "styles": lambda: repacked(lambda n, c: b"\xff\xfe" if "styles" in n else c),
    "a number that is none": lambda: repacked(lambda n, c: c.replace(b"<v>7</v>", b"<v>seven</v>")),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_A21_workbooks_that_are_none(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "upload.xlsx"
    path.write_bytes(DAMAGED[damage]())
    with pytest.raises(DataError, match=r"upload\.xlsx") as refused:
        benchmark("mmbench").read([path])
    assert "\n" not in str(refused.value)
    if damage == "entities":
        assert "declares entities" in str(refused.value)


def test_A21_bytes_changed_anywhere_in_a_workbook(tmp_path: Path) -> None:
    whole, dice = workbook(), random.Random(0)
    for number in range(40):
        content = bytearray(whole)
        for _ in range(dice.randint(1, 20)):
            content[dice.randrange(len(content))] = dice.randrange(256)
        path = tmp_path / f"{number}.XLSX"
        path.write_bytes(bytes(content))
        assert "\n" not in refusal(lambda: benchmark("mmbench").read([path]))  # noqa: B023


def test_A21_a_workbook_that_unpacks_to_more_than_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lensmith_plugins.benchmarks import tables

    monkeypatch.setattr(tables, "_LARGEST", 2000)
    path = tmp_path / "upload.xlsx"
    path.write_bytes(workbook())
    with pytest.raises(DataError, match=r"upload\.xlsx: the workbook unpacks to [\d,]+ bytes"):
        benchmark("mmbench").read([path])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_A21_a_pipe_is_no_table(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "upload.xlsx")
    with pytest.raises(DataError, match="is a pipe, not a regular file"):
        benchmark("mmbench").read([tmp_path / "upload.xlsx"])


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("7\tWhat?\tcat\tdog\ta\n", r"\.tsv:2: its answer is 'a', which is one of A, B"),
        ("7\tWhat?\t\t\tA\n", r"\.tsv:2: all its options are empty"),
        ("7\tWhat?\tcat\tdog\tA\n7\tWhat?\tcat\tdog\tA\n", r"\.tsv:3: the index 7 comes a second time"),
        ("inf\tWhat?\tcat\tdog\tA\n", r"\.tsv:2: its index is inf"),
    ],
)
def test_A21_rows_of_mmbench(cells: str, message: str, tmp_path: Path) -> None:
    data = tmp_path / "mmbench_dev_2023.tsv"
    data.write_text("index\tquestion\tA\tB\tanswer\n" + cells)
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question_id": 7, "text": "A"}) + "\n")
    chosen = benchmark("mmbench")
    with pytest.raises(DataError, match=message):
        chosen.score(chosen.read([path]), data)
