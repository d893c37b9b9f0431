"""Two stages in this process: what moves, what stays, and what the artifacts say."""

from __future__ import annotations

import hashlib
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import lensmith
from lensmith.errors import TrainingError
from lensmith.spec.build import load_spec
from lensmith.training.alone import alone


@pytest.fixture(scope="module")
def spec_of_two(model_spec: dict[str, Any], rows: Path) -> dict[str, Any]:
    common = {"data": {"sources": [{"path": str(rows)}]}, "lr": 1e-2, "batch": {"size": 7}, "precision": "fp32"}
    return {
        "model": model_spec,
        "stages": {
            "align": {**common, "tuner": "frozen", "epochs": 4},
            "tune": {
                **common,
                "tuner": {"name": "lora", "rank": 4, "connector_lr": 5e-4},
                "epochs": 5,
                "gradient_clipping": 1.0,
            },
        },
    }


@pytest.fixture(scope="module")
def run(lab: Any, spec_of_two: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return lab.train(spec_of_two, tmp_path_factory.mktemp("run"))


class TestWhatIsLearnt:
    def test_losses_fall(self, run: Any) -> None:
        for stage in ("align", "tune"):
            losses = run.losses(stage)
            assert losses[-1] < losses[0], stage
        assert run.losses("tune")[-1] < run.losses("align")[0] - 0.2

    def test_the_second_stage_begins_where_the_first_ended(self, run: Any) -> None:
        assert run.losses("tune")[0] < run.losses("align")[0]

    def test_every_step_is_on_record(self, run: Any) -> None:
        # 14 rows in sevens: 2 steps an epoch.
        for stage, steps in (("align", 8), ("tune", 10)):
            entries = run.metrics(stage)
            assert [entry["step"] for entry in entries] == list(range(1, steps + 1))
            assert all(entry["targets"] > 0 and entry["tokens"] > entry["targets"] for entry in entries)
            assert all(entry["skipped"] == 0 and entry["gradient_norm"] > 0 for entry in entries)

    def test_rates_follow_the_schedule_by_group(self, run: Any) -> None:
        rates = [entry["lr"] for entry in run.metrics("tune")]
        assert rates[0] == {"connector": 0.0, "lora": 0.0}  # one step of warm-up from zero
        assert rates[1] == {"connector": 5e-4, "lora": 1e-2}
        assert all(later["lora"] < earlier["lora"] for earlier, later in pairwise(rates[1:]))
        assert all(rate["connector"] == pytest.approx(rate["lora"] / 20) for rate in rates)


class TestWhatStays:
    def test_the_first_stage_writes_the_connector_alone(self, run: Any) -> None:
        assert {name.split(":")[0] for name in run.weights("align")} == {"connector.safetensors"}
        assert run.manifest("align")["weights"] == []

    def test_the_second_writes_connector_and_adapter(self, run: Any) -> None:
        files = {name.split(":")[0] for name in run.weights("tune")}
        assert files == {"connector.safetensors", "adapter/adapter_model.safetensors"}
        assert run.manifest("tune")["weights"] == ["adapter"]

    def test_both_moved_the_connector(self, run: Any, spec_of_two: dict[str, Any]) -> None:
        fresh = lensmith.assemble(spec_of_two, seed=42).connector.state_dict()
        first, second = (load_file(run.folder / stage / "connector.safetensors") for stage in ("align", "tune"))
        assert fresh.keys() == first.keys() == second.keys()
        for name, tensor in fresh.items():
            assert not torch.equal(tensor, first[name]), name
            assert not torch.equal(first[name], second[name]), name

    def test_what_was_frozen_is_bit_for_bit_the_base(
        self, run: Any, tiny_encoder: Path, tiny_language_model: Path
    ) -> None:
        model = lensmith.load(run.folder / "tune")
        ours = dict(model.language_model.network.named_parameters())
        theirs = load_file(tiny_language_model / "model.safetensors")
        base = {name.replace(".base_layer.", "."): t for name, t in ours.items() if "lora_" not in name}
        assert base.keys() == theirs.keys()
        assert all(torch.equal(base[name], tensor) for name, tensor in theirs.items())
        encoder = load_file(tiny_encoder / "model.safetensors")
        for name, tensor in model.vision_encoder.network.named_parameters():
            match = next(t for n, t in encoder.items() if n.removeprefix("vision_model.") == name)
            assert torch.equal(tensor, match), name

    def test_nothing_frozen_has_moved_while_training(
        self, lab: Any, spec_of_two: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Looks at the model that trained, not at what a later load would read again."""
        from lensmith.training import stages

        seen: list[Any] = []
        original = stages.Engine.__init__

        def remember(self: Any, model: Any, *rest: Any) -> None:
            seen.append((model, {n: p.detach().clone() for n, p in model.named_parameters()}))
            original(self, model, *rest)

        monkeypatch.setattr(stages.Engine, "__init__", remember)
        lab.train(spec_of_two, tmp_path / "again")
        for number, (model, before) in enumerate(seen):
            for name, parameter in model.named_parameters():
                trains = name.startswith("connector.") or (number == 1 and "lora_" in name)
                assert parameter.requires_grad == trains, name
                assert torch.equal(parameter, before[name]) != trains, name

    def test_the_bases_files_were_not_touched(self, run: Any, tiny_encoder: Path, tiny_language_model: Path) -> None:
        for kind, folder in (("vision_encoder", tiny_encoder), ("language_model", tiny_language_model)):
            files = run.manifest("align")["sources"][f"{kind}.checkpoint"]["files"]
            assert "model.safetensors" in files
            for name, entry in files.items():
                assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"]


class TestManifest:
    def test_content(self, run: Any, rows: Path, spec_of_two: dict[str, Any]) -> None:
        manifest = run.manifest("tune")
        assert manifest["format"] == 1
        assert manifest["lensmith"]
        resolved = load_spec(spec_of_two).model.model_dump(mode="json")
        assert {k: v for k, v in manifest["model"].items() if k != "language_model"} == {
            k: v for k, v in resolved.items() if k != "language_model"
        }
        assert manifest["tuner"]["name"] == "lora"
        assert manifest["tuner"]["rank"] == 4
        assert manifest["plugins"]["tuner"] == {
            "name": "lora",
            "distribution": "lensmith",
            "version": manifest["lensmith"],
        }
        assert manifest["plugins"].keys() == {
            "vision_encoder",
            "image_splitter",
            "connector",
            "language_model",
            "conversation",
            "tuner",
        }
        assert manifest["stage"]["name"] == "tune"
        assert manifest["stage"]["spec"]["epochs"] == 5
        assert manifest["data"] == [
            {"path": str(rows), "rows": 14, "of": 14, "sha256": hashlib.sha256(rows.read_bytes()).hexdigest()}
        ]
        assert (manifest["step"], manifest["steps"]) == (10, 10)
        assert (manifest["order_seed"], manifest["precision"]) == (42, "float32")

    def test_the_inventory_is_the_folder(self, run: Any) -> None:
        for stage in ("align", "tune"):
            artifact = run.folder / stage
            found = {str(p.relative_to(artifact)) for p in artifact.rglob("*") if p.is_file()}
            listed = run.manifest(stage)["files"]
            assert found == {"manifest.json", *listed}
            assert any(name.startswith("tokenizer/") for name in listed)
            for name, entry in listed.items():
                content = (artifact / name).read_bytes()
                assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def test_no_temporary_folder_is_left(self, run: Any) -> None:
        assert sorted(p.name for p in run.folder.iterdir()) == ["align", "metrics", "tune"]


class TestFolders:
    def test_a_finished_run_is_not_overwritten(self, run: Any, spec_of_two: dict[str, Any]) -> None:
        with pytest.raises(TrainingError, match="already holds align, tune; go on with --resume, choose another"):
            lensmith.train(spec_of_two, output=run.folder)

    def test_resuming_a_finished_run_does_nothing(self, run: Any, spec_of_two: dict[str, Any]) -> None:
        before = {p: p.stat().st_mtime_ns for p in run.folder.rglob("*")}
        assert lensmith.train(spec_of_two, output=run.folder, resume=True) == [
            run.folder / "align",
            run.folder / "tune",
        ]
        assert {p: p.stat().st_mtime_ns for p in run.folder.rglob("*")} == before

    def test_one_stage_at_a_time_is_the_same(
        self, lab: Any, run: Any, spec_of_two: dict[str, Any], tmp_path: Path
    ) -> None:
        spec = json.loads(json.dumps(spec_of_two))
        spec["stages"]["align"]["checkpoints"] = {"every": 3}
        with pytest.raises(TrainingError, match="run stage 'align' before 'tune'"):
            lensmith.train(spec, output=tmp_path, stage="tune")
        lensmith.train(spec, output=tmp_path, stage="align")
        with pytest.raises(TrainingError, match="already holds align"):
            lensmith.train(spec, output=tmp_path, stage="align")
        lensmith.train(spec, output=tmp_path, stage="tune")
        assert lab.run(tmp_path).losses("tune") == run.losses("tune")

    def test_the_first_stage_must_be_of_the_same_spec(
        self, run: Any, spec_of_two: dict[str, Any], tmp_path: Path
    ) -> None:
        spec = json.loads(json.dumps(spec_of_two))
        spec["stages"]["align"]["lr"] = 3e-3
        with pytest.raises(lensmith.ArtifactError, match=r"was trained with another spec: spec\.lr differ"):
            lensmith.train(spec, output=run.folder, resume=True)

    def test_a_stage_before_that_was_trained_again(self, run: Any, spec_of_two: dict[str, Any], tmp_path: Path) -> None:
        """What follows it began from something else."""
        folder = shutil.copytree(run.folder, tmp_path / "run")
        manifest = folder / "align" / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"steps"', '"steps" ', 1))
        with pytest.raises(TrainingError, match=r"tune was not trained from the .*align that is there now; delete it"):
            lensmith.train(spec_of_two, output=folder, resume=True)

    def test_one_run_at_a_time(self, spec_of_two: dict[str, Any], tmp_path: Path) -> None:
        with alone(tmp_path / "run"), pytest.raises(TrainingError, match=r"another process trains into .*run; wait"):
            lensmith.train(spec_of_two, output=tmp_path / "run")
        assert not (tmp_path / "run").exists()  # nothing came of either
        (tmp_path / "file").touch()
        with pytest.raises(TrainingError, match="file cannot be written"):
            lensmith.train(spec_of_two, output=tmp_path / "file")

    def test_stages_that_are_not_there(self, spec_of_two: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(lensmith.LensmithError, match="there is no stage 'polish'; stages: align, tune"):
            lensmith.train(spec_of_two, output=tmp_path, stage="polish")
        with pytest.raises(TrainingError, match="has no stages"):
            lensmith.train({"model": spec_of_two["model"]}, output=tmp_path)

    def test_a_run_can_be_repeated_bit_for_bit(
        self, lab: Any, run: Any, spec_of_two: dict[str, Any], tmp_path: Path
    ) -> None:
        again = lab.train(spec_of_two, tmp_path / "again")
        for stage in ("align", "tune"):
            assert again.losses(stage) == run.losses(stage)
            ours, theirs = again.weights(stage), run.weights(stage)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
