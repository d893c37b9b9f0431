"""Bad rows stop a run or are left out and counted, never silently; and what trains must be what is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lensmith
from lensmith.errors import DataError, LensmithError, TrainingError
from lensmith.training.loop import GradientWatch
from lensmith.training.progress import Metrics


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight rows; lines 3 and 6 cannot be used."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    for number in range(8):
        Image.new("RGB", (30, 30), (number * 30, 0, 0)).save(folder / f"{number}.png")
        rows.append(
            {"id": f"r{number}", "image": f"{number}.png", "conversations": turns("<image>\nHow red?", f"{number}")}
        )
    rows[2]["conversations"][1]["value"] = ""
    rows[5]["conversations"][0]["value"] = "How red?"
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def spec_of_data(lab: Any, spec: dict[str, Any], data: Path) -> Any:
    def make(**options: Any) -> dict[str, Any]:
        stage = {
            "tuner": {"name": "lora", "rank": 2},
            "data": {"sources": [str(data)], **options},
            "batch": {"size": 2},
        }
        made: dict[str, Any] = lab.stages(spec, only=stage)
        return made

    return make


class TestBeforeTraining:
    def test_all_of_them_are_told_at_once(self, spec_of_data: Any, data: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            lensmith.train(spec_of_data(), output=tmp_path / "run")
        message = str(caught.value)
        assert "stage 'only': 2 of 8 rows cannot be used (set data.bad_rows: skip to leave them out)" in message
        assert f"{data}:3: row 'r2' has nothing to learn" in message
        assert f"{data}:6: row 'r5' has 1 picture but 0 <image> in its turns" in message
        assert not (tmp_path / "run" / "only").exists()

    def test_left_out_and_counted(
        self, lab: Any, spec_of_data: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        run = lab.train(spec_of_data(bad_rows="skip"), tmp_path / "run")
        assert len(run.losses("only")) == 3
        assert run.manifest("only")["data"][0] | {"sha256": ""} == {
            "path": run.manifest("only")["data"][0]["path"],
            "rows": 8,
            "of": 8,
            "sha256": "",
        }
        assert "6 rows, 2 left out, 3 steps" in capfd.readouterr().err

    def test_a_source_of_bad_rows_alone(self, spec_of_data: Any, data: Path, tmp_path: Path) -> None:
        data.write_text("".join(data.read_text().splitlines(keepends=True)[2:3]))
        with pytest.raises(DataError, match=r"rows\.jsonl has no row that can be used"):
            lensmith.train(spec_of_data(bad_rows="skip"), output=tmp_path / "run")

    def test_a_line_that_is_no_json(self, spec_of_data: Any, data: Path, tmp_path: Path) -> None:
        data.write_text(data.read_text().replace('{"id": "r4"', '{"id": r4"'))
        with pytest.raises(DataError, match=r"rows\.jsonl:5: not valid JSON"):
            lensmith.train(spec_of_data(), output=tmp_path / "run")


class TestWhileTraining:
    def test_a_picture_that_turned_unreadable(self, spec_of_data: Any, data: Path, tmp_path: Path) -> None:
        (data.parent / "4.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
        spec = spec_of_data()
        spec["stages"]["only"]["data"]["sources"] = [str(_good_rows(data))]
        with pytest.raises(DataError, match=r"good\.jsonl:5: row 'r4': .*4\.png"):
            lensmith.train(spec, output=tmp_path / "run")

    def test_left_out_and_counted(
        self, lab: Any, spec_of_data: Any, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (data.parent / "4.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
        spec = spec_of_data(bad_rows="skip")
        spec["stages"]["only"]["epochs"] = 2
        run = lab.train(spec, tmp_path / "run")
        assert sum(entry["skipped"] for entry in run.metrics("only")) == 2  # once an epoch
        assert all(entry["loss"] > 0 for entry in run.metrics("only"))
        assert capfd.readouterr().err.count(f"left out: {data}:5: row 'r4'") == 2

    def test_a_micro_batch_without_a_row(self, lab: Any, spec_of_data: Any, data: Path, tmp_path: Path) -> None:
        """A step whose every row is left out teaches nothing and stops nothing."""
        for number in (0, 1, 3):
            (data.parent / f"{number}.png").unlink()
        spec = spec_of_data(bad_rows="skip")
        spec["stages"]["only"] |= {"batch": {"size": 1}, "schedule": {"warmup_ratio": 0.0}}
        run = lab.train(spec, tmp_path / "run")
        entries = run.metrics("only")
        assert sorted(entry["skipped"] for entry in entries) == [0, 0, 0, 1, 1, 1]
        assert {entry["skipped"]: entry["targets"] == 0 for entry in entries} == {0: False, 1: True}
        assert all((entry["loss"] == 0) == (entry["skipped"] == 1) for entry in entries)

    def test_every_row_left_out_is_an_error(self, spec_of_data: Any, data: Path, tmp_path: Path) -> None:
        for picture in data.parent.glob("*.png"):
            picture.unlink()
        with pytest.raises(LensmithError, match=r"pictures (of .* is there|cannot be used)"):
            lensmith.train(spec_of_data(bad_rows="skip"), output=tmp_path / "run")
        assert not (tmp_path / "run" / "only").exists()


class TestLongRows:
    @pytest.fixture
    def one_long(self, data: Path) -> Path:
        rows = [json.loads(line) for line in _good_rows(data).read_text().splitlines() if line]
        rows[1]["conversations"] = turns("<image>\nTell me.", "well " * 30)
        file = data.with_name("long.jsonl")
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    def spec(self, spec_of_data: Any, file: Path, how: str) -> dict[str, Any]:
        spec: dict[str, Any] = spec_of_data(long_rows=how, max_length=64)
        spec["stages"]["only"]["data"]["sources"] = [str(file)]
        return spec

    def test_cut(self, lab: Any, spec_of_data: Any, one_long: Path, tmp_path: Path) -> None:
        run = lab.train(self.spec(spec_of_data, one_long, "truncate"), tmp_path / "run")
        assert sum(entry["skipped"] for entry in run.metrics("only")) == 0
        assert max(entry["tokens"] for entry in run.metrics("only")) >= 64

    def test_left_out_though_bad_rows_are_an_error(
        self, lab: Any, spec_of_data: Any, one_long: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        run = lab.train(self.spec(spec_of_data, one_long, "skip"), tmp_path / "run")
        assert sum(entry["skipped"] for entry in run.metrics("only")) == 1
        assert "long.jsonl:2: row 'r1': takes" in capfd.readouterr().err

    def test_refused(self, spec_of_data: Any, one_long: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"long\.jsonl:2: row 'r1': takes \d+ positions, max_length is 64; raise"):
            lensmith.train(self.spec(spec_of_data, one_long, "error"), output=tmp_path / "run")


def _good_rows(data: Path) -> Path:
    """The rows that can be used, at the lines where they were."""
    lines = data.read_text().splitlines()
    lines[2] = lines[5] = ""
    file = data.with_name("good.jsonl")
    file.write_text("\n".join(lines) + "\n")
    return file


class TestWhatTrainsIsUsed:
    def test_a_parameter_without_a_gradient_is_named(self) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        model[1].bias.requires_grad_(False)
        watch = GradientWatch(model)
        model[0](torch.ones(1, 2)).sum().backward()
        with pytest.raises(
            TrainingError, match=r"1 of 3 parameters that are to train got no gradient .* first 1\.weight"
        ):
            watch.verify()

    def test_all_of_them(self) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        watch = GradientWatch(model)
        model(torch.ones(1, 2)).sum().backward()
        watch.verify()

    def test_in_a_run(self, spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A connector that forgets its first layer."""
        from lensmith_plugins.connectors.mlp import MlpConnector

        def forgetful(self: Any, features: torch.Tensor, instruction: Any = None) -> torch.Tensor:
            hidden: torch.Tensor = self.get_submodule("2")(features)
            return hidden

        monkeypatch.setattr(MlpConnector, "forward", forgetful)
        with pytest.raises(
            TrainingError, match=r"2 of 4 parameters that are to train got no gradient .* first connector\.0\.bias"
        ):
            lensmith.train(spec, output=tmp_path)

    def test_a_loss_without_a_graph(
        self, spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from lensmith_plugins.connectors.mlp import MlpConnector

        monkeypatch.setattr(MlpConnector, "forward", lambda self, features, instruction=None: features.detach())
        with pytest.raises(TrainingError, match="the loss does not depend on anything that trains"):
            lensmith.train(spec, output=tmp_path)

    def test_what_the_tuner_prepares_must_be_its_plan(
        self, spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from lensmith_plugins.tuners.frozen import FrozenTuner

        def too_much(self: Any, model: torch.nn.Module) -> None:
            model.requires_grad_(True)

        monkeypatch.setattr(FrozenTuner, "prepare", too_much)
        with pytest.raises(TrainingError, match=r"the tuner's plan is not what trains: planned only .*training only"):
            lensmith.train(spec, output=tmp_path)

    def test_groups_must_cover_what_trains(
        self, spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from lensmith import ParameterGroup
        from lensmith_plugins.tuners.frozen import FrozenTuner

        names = ("connector.0.weight", "connector.0.weight", "connector.9.weight")
        monkeypatch.setattr(FrozenTuner, "groups", lambda self, model: [ParameterGroup("x", names)])
        with pytest.raises(
            TrainingError,
            match=r"twice \['connector.0.weight'\], left out \['connector.0.bias', .*not training \['connector.9",
        ):
            lensmith.train(spec, output=tmp_path)

    def test_a_loss_that_is_not_finite(self, spec: dict[str, Any], tmp_path: Path) -> None:
        spec["stages"]["align"]["lr"] = 1e30
        with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+ .*; lower stages\.align\.lr"):
            lensmith.train(spec, output=tmp_path)
        assert not (tmp_path / "align").exists()


def test_a_picture_that_cannot_be_read_costs_no_step(
    lab: Any, spec_of_data: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was learnt before it is kept, and the run goes on once the file is mended."""
    lines = data.read_text().splitlines(keepends=True)
    data.write_text("".join(lines[:2] + lines[3:5] + lines[6:]))  # three steps of good rows
    whole = lab.train(spec_of_data(), tmp_path / "whole")
    seen: list[str] = []
    write = Metrics.write

    def breaks(self: Metrics, entry: dict[str, Any]) -> None:
        write(self, entry)
        if entry["step"] == 2:
            for picture in data.parent.glob("*.png"):
                seen.append(picture.name)
                picture.rename(picture.with_suffix(".away"))

    monkeypatch.setattr(Metrics, "write", breaks)
    with pytest.raises(DataError, match=r"\.png"):
        lensmith.train(spec_of_data(), output=tmp_path / "run")
    monkeypatch.setattr(Metrics, "write", write)
    assert [path.name for path in (tmp_path / "run" / "checkpoints" / "only").iterdir()] == ["step-00000002"]
    for name in seen:
        (data.parent / name).with_suffix(".away").rename(data.parent / name)
    lensmith.train(spec_of_data(), output=tmp_path / "run", resume=True)
    assert lab.run(tmp_path / "run").losses("only") == whole.losses("only")
