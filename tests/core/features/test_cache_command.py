"""`lensmith cache` and the spec's section."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lensmith.cli.app import app
from lensmith.errors import LensmithError, SpecError
from lensmith.features import folders
from lensmith.spec.build import load_spec
from lensmith.spec.check import checked
from lensmith.spec.run import CacheSpec


def lensmith(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["cache", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture
def filled(work: Callable[..., Any], tmp_path: Path) -> Path:
    """A cache of two encoders, the second used a week ago."""
    for layer in (-2, -3):
        some = work(vision_encoder={"name": "clip", "checkpoint": str(tmp_path / "encoder"), "select_layer": layer})
        some.attach([0, 1]).release()
    old = time.time() - 7 * 86400
    os.utime(folders.cached(tmp_path / "cache")[1].folder / folders.ABOUT, (old, old))
    return tmp_path / "cache"


def test_list_and_clear(filled: Path) -> None:
    listed = json.loads(lensmith("list", "--folder", str(filled), "--json"))
    assert [entry["pictures"] for entry in listed] == [2, 2]
    assert [round(entry["idle_days"]) for entry in listed] == [0, 7]
    assert sum(entry["bytes"] for entry in listed) == folders.held(filled)
    assert listed[0]["id"] in lensmith("list", "--folder", str(filled))
    assert "cleared" in lensmith("clear", "--unused", "3", "--folder", str(filled))
    assert [entry.folder.name for entry in folders.cached(filled)] == [listed[0]["id"]]
    lensmith("clear", listed[0]["id"], "--folder", str(filled))
    assert not list(filled.iterdir())


def test_size_in_the_default_folder(monkeypatch: pytest.MonkeyPatch, filled: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("LENSMITH_CACHE", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    filled.rename(tmp_path / "own" / "features")
    assert re.match(re.escape(f"{tmp_path / 'own' / 'features'}: ") + r"\d\.\d+ kB$", lensmith().strip())


def test_what_is_used_stays(filled: Path, work: Callable[..., Any]) -> None:
    some = work()
    lock = some.attach([0])
    with pytest.raises(LensmithError, match="is used by a training run"):
        lensmith("clear", "--all", "--folder", str(filled))
    (left,) = folders.cached(filled)
    assert left.about["encoder"]["select_layer"] == -2
    lock.release()
    lensmith("clear", "--all", "--folder", str(filled))
    assert not folders.cached(filled)


@pytest.mark.parametrize("arguments", [[], ["--all", "--unused", "2"], ["nothing-like-it"]])
def test_what_to_clear_must_be_said(filled: Path, arguments: list[str]) -> None:
    with pytest.raises(LensmithError):
        lensmith("clear", *arguments, "--folder", str(filled))
    assert len(folders.cached(filled)) == 2


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("off", CacheSpec(features=False)),
        (False, CacheSpec(features=False)),
        ("features", CacheSpec()),
        ({"limit": "2GB"}, CacheSpec(limit=2_000_000_000)),
        ({"limit": 5, "over_limit": "encode"}, CacheSpec(limit=5, over_limit="encode")),
    ],
)
def test_forms_of_the_setting(light_spec: dict[str, Any], written: Any, meant: CacheSpec) -> None:
    light_spec["stages"]["align"]["cache"] = written
    stage = load_spec(light_spec).stages["align"]
    assert stage.cache == meant
    light_spec["stages"]["align"]["cache"] = stage.model_dump(mode="json")["cache"]
    assert load_spec(light_spec).stages["align"].cache == meant


@pytest.mark.parametrize("written", ["pixels", {"limit": "lots"}, {"limit": -1}, {"size": 3}, 3])
def test_mistakes_in_the_setting(light_spec: dict[str, Any], written: Any) -> None:
    light_spec["stages"]["align"]["cache"] = written
    with pytest.raises(SpecError, match=r"stages\.align\.cache"):
        load_spec(light_spec)


def test_check_refuses_an_encoder_that_trains(light_spec: dict[str, Any]) -> None:
    light_spec["stages"]["align"] |= {"cache": "features", "tuner": {"name": "full", "vision_encoder": True}}
    with pytest.raises(SpecError, match=r"stages\.align\.cache: the tuner trains the vision encoder"):
        checked(light_spec)
    light_spec["stages"]["align"]["cache"] = "off"
    checked(light_spec)
