"""A relative path starts from the file that says it, an override's from the working folder."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from lensmith import load_spec
from lensmith.checkpoints import LocatedStr, is_hub_id

Told = Callable[..., str]
Write = Callable[[str, str], Path]


def sources(spec: object, stage: str) -> list[Path]:
    return [source.path for source in spec.stages[stage].data.sources]  # type: ignore[attr-defined]


def test_paths_start_from_the_file(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    spec = load_spec(Path("../specs/base.yaml"))
    assert spec.model.vision_encoder.checkpoint == str(base.parent / "encoders" / "clip")
    assert spec.model.language_model.checkpoint == str(tmp_path / "llama")
    assert sources(spec, "align") == [base.parent / "rows.jsonl"]
    assert sources(spec, "tune") == [base.parent / "rows.jsonl", base.parent / "more.jsonl"]


def test_inherited_paths_stay_with_the_file_that_says_them(base: Path, write: Write, tmp_path: Path) -> None:
    child = write(
        "runs/deep/child.yaml",
        """
        extends: ../../specs/base.yaml
        output: out
        model: {language_model: {tokenizer: words}}
        stages: {tune: {data: {sources: [own.jsonl]}}}
        """,
    )
    spec = load_spec(child)
    assert spec.output == child.parent / "out"
    assert spec.model.language_model.tokenizer == str(child.parent / "words")
    assert spec.model.language_model.checkpoint == str(tmp_path / "llama")
    assert sources(spec, "align") == [base.parent / "rows.jsonl"]
    assert sources(spec, "tune") == [child.parent / "own.jsonl"]


def test_an_override_starts_from_the_working_folder(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    overrides = [
        "output=out",
        "stages.align.data.sources=[a.jsonl, {path: ../b.jsonl}]",
        "model.vision_encoder.checkpoint=c",
    ]
    spec = load_spec(base, overrides)
    assert spec.output == tmp_path / "here" / "out"
    assert sources(spec, "align") == [tmp_path / "here" / "a.jsonl", tmp_path / "b.jsonl"]
    assert spec.model.vision_encoder.checkpoint == str(tmp_path / "here" / "c")
    assert spec.model.language_model.checkpoint == str(tmp_path / "llama")


def test_a_mapping_starts_from_the_working_folder(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = load_spec({"extends": str(base), "output": "out", "start_from": Path("before")})
    assert (spec.output, spec.start_from) == (tmp_path / "out", tmp_path / "before")


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_paths_of_json_and_toml_files(suffix: str, write: Write, base: Path) -> None:
    if suffix == "toml":
        pytest.importorskip("tomllib")
    text = {"json": '{"extends": "../base.yaml", "output": "out"}', "toml": 'extends = "../base.yaml"\noutput = "out"'}
    child = write(f"specs/below/child.{suffix}", text[suffix])
    assert load_spec(child).output == child.parent / "out"


def test_absolute_and_home_paths(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    spec = load_spec(base, ["output=/srv/runs/../x", "start_from=~/before"])
    assert spec.output == Path("/srv/x")
    assert spec.start_from == tmp_path / "home" / "before"


def test_a_hub_id_stays_one_unless_it_is_a_folder(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    override = ["model.language_model.checkpoint=owner/model"]
    assert load_spec(base, override).model.language_model.checkpoint == "owner/model"
    (tmp_path / "owner" / "model").mkdir(parents=True)
    assert load_spec(base, override).model.language_model.checkpoint == str(tmp_path / "owner" / "model")


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("owner/name", True),
        ("lmsys/vicuna-7b-v1.5", True),
        ("name", False),
        ("a/b/c", False),
        ("./name", False),
        ("../name", False),
        ("~/name", False),
        ("/name", False),
        ("a b/c", False),
        ("owner/name\n", False),
        ("", False),
    ],
)
def test_the_form_of_a_hub_id(text: str, is_one: bool) -> None:
    assert is_hub_id(text) is is_one


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("output=''", "output: is empty; give a path"),
        ("output=3", "output: should be a path, as text; it is 3"),
        ("output=[a]", "output: should be a path, as text; it is ['a']"),
        ("model.language_model.checkpoint=''", "model.language_model.checkpoint: is empty; give a path"),
        ("model.language_model.checkpoint=3", "model.language_model.checkpoint: should be a path, as text; it is 3"),
        (
            "stages.align.data.sources=[3]",
            "stages.align.data.sources.0: should be a mapping; fields here: path, images",
        ),
    ],
)
def test_what_is_no_path(override: str, message: str, told: Told, base: Path) -> None:
    assert f"override {override!r}: {message}" in told(base, override)


def test_a_name_that_is_too_long_for_the_file_system_is_only_a_missing_file(base: Path) -> None:
    spec = load_spec(base, [f"model.vision_encoder.checkpoint={'x' * 300}/{'y' * 300}"])
    assert spec.model.vision_encoder.checkpoint.startswith("x")


def test_located_text_survives_copies() -> None:
    text = LocatedStr("a.jsonl", Path("/specs"))
    for twin in (copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        assert twin == "a.jsonl"
        assert twin.base == Path("/specs")


def test_validated_paths_are_plain(base: Path) -> None:
    spec = load_spec(base)
    assert type(spec.model.vision_encoder.checkpoint) is str
    assert isinstance(spec.stages["align"].data.sources[0].path, Path)
