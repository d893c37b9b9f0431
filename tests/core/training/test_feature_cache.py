"""Runs with `cache: features`: the numbers of runs without, on one rank and on two, killed or not."""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lensmith.features import folders
from lensmith.training.progress import Metrics


@pytest.fixture
def cached(spec: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The two stages of `spec`, two epochs each, with one cache."""
    changed = copy.deepcopy(spec)
    for stage in changed["stages"].values():
        stage |= {"cache": {"folder": str(tmp_path / "cache")}, "epochs": 2, "lr": 1e-2}
    return changed


def without(spec: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(spec)
    for stage in changed["stages"].values():
        stage["cache"] = "off"
    return changed


def assert_same(run: Any, other: Any, stages: tuple[str, ...], tolerance: float = 1e-6) -> None:
    for stage in stages:
        assert run.losses(stage) == pytest.approx(other.losses(stage), rel=tolerance, abs=0)
        weights, expected = run.weights(stage), other.weights(stage)
        assert weights.keys() == expected.keys()
        for name, tensor in weights.items():
            # AdamW turns a gradient's last bits into a step's; the bound is on the whole tensor.
            assert torch.linalg.norm(tensor - expected[name]) <= 20 * tolerance * torch.linalg.norm(expected[name])


def test_two_stages_encode_each_picture_once(
    lab: Any,
    cached: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = lab.train(without(cached), tmp_path / "plain")
    first = lab.train(cached, tmp_path / "first")
    assert "feature cache: 6.14 kB for 12 pictures, 0 there" in capsys.readouterr().err
    assert_same(first, plain, ("align", "tune"))

    def no_picture(*arguments: Any) -> Any:
        raise AssertionError("a picture was opened")

    # Both stages of another run find all features, by files or, where these were written a moment ago, by contents.
    monkeypatch.setattr("lensmith.data.sample.open_image", no_picture)
    again = lab.train(cached, tmp_path / "again")
    assert again.losses("align") == first.losses("align")
    assert again.losses("tune") == first.losses("tune")
    assert "cache" not in first.manifest("align")["stage"]["spec"]
    (entry,) = folders.cached(tmp_path / "cache")
    assert entry.pictures == 12


def test_a_killed_run_goes_on_exactly_even_where_the_cache_was_cleared(
    lab: Any, cached: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = cached["stages"]["tune"] | {"checkpoints": {"every": 2}, "batch": {"size": 4, "micro": 2}}
    spec = {"model": cached["model"], "stages": {"tune": stage}}
    whole = lab.train(spec, tmp_path / "whole")
    write = Metrics.write

    def crash(self: Metrics, entry: dict[str, Any]) -> None:
        if entry["step"] == 4:
            raise RuntimeError("crash")
        write(self, entry)

    monkeypatch.setattr(Metrics, "write", crash)
    with pytest.raises(RuntimeError, match="crash"):
        lab.train(spec, tmp_path / "crashed")
    monkeypatch.undo()
    (entry,) = folders.cached(tmp_path / "cache")
    for shard in entry.folder.glob("*-*.safetensors"):
        shard.unlink()
    resumed = lab.train(spec, tmp_path / "crashed", resume=True)
    assert resumed.losses("tune") == whole.losses("tune")
    expected = whole.weights("tune")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.weights("tune").items())


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["1GB", "4kB"])
def test_two_ranks_whose_pictures_do_not_all_fit(
    lab: Any, cached: dict[str, Any], tmp_path: Path, write_spec: Callable[[dict[str, Any]], Path], limit: str
) -> None:
    """ZeRO-3 gathers the encoder's weights, so that a rank that encodes and one that need not must run alike."""
    plain = lab.train(without(cached), tmp_path / "plain", stage="align")
    cached["stages"]["align"] |= {"deepspeed": {"zero": 3}}
    cached["stages"]["align"]["cache"] |= {"limit": limit, "over_limit": "encode"}
    cached["stages"]["align"]["data"]["workers"] = 1
    file = write_spec(cached)
    process = lab.command("train", file, "--nproc", "2", "--stage", "align", "--output", tmp_path / "run")
    code, out, err = lab.finish(process, timeout=400)
    assert code == 0, f"{out}\n{err}"
    assert_same(lab.run(tmp_path / "run"), plain, ("align",))


@pytest.mark.slow
def test_runs_that_begin_together_encode_once(
    lab: Any, cached: dict[str, Any], tmp_path: Path, write_spec: Callable[[dict[str, Any]], Path]
) -> None:
    file = write_spec(cached)
    runs = [
        lab.command("train", file, "--stage", "align", "--output", tmp_path / f"run{number}") for number in range(2)
    ]
    for process in runs:
        code, out, err = lab.finish(process, timeout=400)
        assert code == 0, f"{out}\n{err}"
    assert lab.run(tmp_path / "run0").losses("align") == lab.run(tmp_path / "run1").losses("align")
    (entry,) = folders.cached(tmp_path / "cache")
    assert entry.pictures == 12


@pytest.mark.slow
def test_a_run_killed_while_it_fills(
    lab: Any, cached: dict[str, Any], tmp_path: Path, write_spec: Callable[[dict[str, Any]], Path]
) -> None:
    plain = lab.train(without(cached), tmp_path / "plain", stage="align")
    process = lab.command("train", write_spec(cached), "--stage", "align", "--output", tmp_path / "run")
    lab.wait_for(lambda: list((tmp_path / "cache").glob("*/filling.lock")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert_same(lab.train(cached, tmp_path / "again", stage="align"), plain, ("align",))


@pytest.mark.parametrize("damage", ["zeros", "a constant", "one bit"])
def test_A12_damaged_features_change_no_loss(
    lab: Any, cached: dict[str, Any], tmp_path: Path, damage: str, recwarn: pytest.WarningsRecorder
) -> None:
    """The images are encoded again, where encoder and language model would learn from whatever lies on the disk."""
    plain = lab.train(without(cached), tmp_path / "plain")
    lab.train(cached, tmp_path / "first")
    for shard in (tmp_path / "cache").glob("*/shard-*"):
        content = bytearray(shard.read_bytes())
        header = 8 + int.from_bytes(content[:8], "little")
        begin, end = json.loads(content[8:header])["features"]["data_offsets"]
        for at in range(header + begin, header + end):
            if damage == "one bit":
                if (at - header - begin) % 64 == 3:
                    content[at] ^= 0x40
            else:
                content[at] = 0 if damage == "zeros" else 0x3F
        shard.write_bytes(content)
    assert_same(lab.train(cached, tmp_path / "again"), plain, ("align", "tune"))
    assert any("damaged record" in str(warning.message) for warning in recwarn)
