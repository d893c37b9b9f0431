"""Spec files by their suffix: YAML, JSON, TOML; what cannot be read is told with the file and, if known, the line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lensmith import SpecError, load_spec
from lensmith.spec.yaml import MAX_DEPTH, read_document

Told = Callable[..., str]
Write = Callable[[str, str], Path]

TOML = """
[model]
image_splitter = "pad"
conversation = "chatml"
vision_encoder = {name = "clip", checkpoint = "./encoders/clip"}
connector = {name = "mlp", depth = 3}
language_model = {name = "llama", checkpoint = "../llama"}

[stages.align]
tuner = "frozen"
lr = 1e-3
data.sources = "rows.jsonl"

[stages.tune]
tuner = {name = "lora", rank = 4}
data.sources = ["rows.jsonl", {path = "more.jsonl", weight = 2}]
"""


def refusal(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        read_document(path)
    (problem,) = caught.value.problems
    return str(problem)


def test_the_three_languages_say_the_same(base: Path, write: Write) -> None:
    data = read_document(base).data
    from_json = write("specs/base.json", json.dumps(data))
    from_toml = write("specs/base.toml", TOML)
    assert load_spec(base) == load_spec(from_json) == load_spec(from_toml)
    assert load_spec(base).stages["align"].lr == 0.001


def test_a_path_may_be_given_as_text(base: Path) -> None:
    assert load_spec(str(base)) == load_spec(base)


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json", ".toml"])
def test_a_byte_order_mark_is_skipped(suffix: str, tmp_path: Path) -> None:
    text = {".json": '{"output": "é"}', ".toml": 'output = "é"'}.get(suffix, "output: é")
    file = tmp_path / f"bom{suffix}"
    file.write_text(text, encoding="utf-8-sig")
    assert read_document(file).data == {"output": "é"}


def test_windows_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "crlf.yaml"
    file.write_bytes(b"output: a\r\nmodel:\r\n  connector: mlp\r\n")
    document = read_document(file)
    assert document.data == {"output": "a", "model": {"connector": "mlp"}}
    assert document.lines["model", "connector"] == 3


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.yaml") == f"{tmp_path / 'no.yaml'} does not exist; give the path of a spec file"


def test_what_is_no_readable_text(tmp_path: Path) -> None:
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    assert "folder.yaml: is a folder, not a regular file" in refusal(folder)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("output: é".encode("latin-1"))
    assert "latin.yaml:1: " in refusal(latin)
    assert "UTF-8" in refusal(latin)
    for name in ("n" * 300 + ".yaml", "nul\0.yaml"):
        assert "does not exist" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n "a": 2}', "the key 'a' appears twice"),
        ('{"x": {"b": 1, "c": 2, "b": 3}}', "the key 'b' appears twice"),
        ('{"a": 1,\n}', ":2: not valid JSON"),
        ("a: 1", ":1: not valid JSON"),
        ("", ":1: not valid JSON"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ('{"\\ud800": 1}', "half of a surrogate pair"),
        ('{"a": ' + "9" * 4000 + "}", "digits is too long"),
        ('{"a": ' + "9" * 5000 + "}", "digits is too long"),
        ("[" * 100 + "]" * 100, f"nested more than {MAX_DEPTH} deep"),
        ("[" * 100_000 + "]" * 100_000, f"nested more than {MAX_DEPTH} deep"),
    ],
)
def test_json_that_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(text)
    told = refusal(file)
    assert told.startswith(str(file))
    assert message in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\na = 2", "not valid TOML: Cannot overwrite a value"),
        ("a: 1", "not valid TOML"),
        ("a = " + "[" * 100 + "]" * 100, f"nested more than {MAX_DEPTH} deep"),
        ("a = " + "9" * 5000, "not valid TOML"),
        ("a = 0x" + "f" * 5000, "digits is too long"),
    ],
)
def test_toml_that_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    assert message in refusal(file)


def test_lines_of_a_json_file(told: Told, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"model": {"connector": {"name": "mlp", "depth": 0}}}, indent=2))
    assert f"{file}:5: model.connector.depth: should be greater than or equal to 1; it is 0" in told(file)


def test_json_with_tabs_has_no_lines_but_is_read(told: Told, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"model": {"connector": {"name": "mlp", "depth": 0}}}, indent="\t"))
    assert f"{file}: model.connector.depth: should be greater than or equal to 1; it is 0" in told(file)


@pytest.mark.parametrize("text", ["- a", "a", "3"])
def test_a_spec_is_a_mapping(text: str, told: Told, write: Write) -> None:
    assert "a spec is a mapping with `model:` and `stages:`, not a" in told(write("odd.yaml", text))


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "null"])
def test_an_empty_spec_misses_its_model(text: str, told: Told, write: Write) -> None:
    assert (
        told(write("empty.yaml", text)).partition(": ")[2].startswith("model: is required. Fields here: model, stages")
    )
