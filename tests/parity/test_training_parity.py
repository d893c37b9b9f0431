"""The original's recorded training runs, repeated through `lensmith.train`: the same rows, losses and weights.

Every run that is on record is repeated from its own command line; what a run set is read from it, not listed here.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import lensmith
from lensmith.data.order import rows_of_steps
from lensmith.data.reader import RowReader
from lensmith.data.sources import Mixture
from lensmith.parts import conversation, tokenizer

TOWER = "model.vision_tower.vision_tower."
PROJECTOR = "model.mm_projector."
RELATIVE = 1e-4
STILL = 1e-30
"""A learning rate that no weight in fp32 is moved by; a stage has none of zero, not even in its only step."""


@dataclass(frozen=True)
class Run:
    """One recorded run."""

    record: dict[str, Any]
    tensors: dict[str, Tensor]

    def flag(self, name: str, default: str = "") -> str:
        argv = self.record["argv"]
        return str(argv[argv.index(f"--{name}") + 1]) if f"--{name}" in argv else default

    def side(self, which: str) -> dict[str, Tensor]:
        """Initial (`init`) or `final` tensors, under the original's names without wrappers' prefixes."""
        found = {n.removeprefix(f"{which}."): t for n, t in self.tensors.items() if n.startswith(f"{which}.")}
        return {n.removeprefix("base_model.model."): t for n, t in found.items()}

    @property
    def lora(self) -> bool:
        return self.flag("lora_enable", "False") == "True"

    def tuner(self) -> dict[str, Any]:
        rate = self.flag("mm_projector_lr")
        own = {"connector_lr": float(rate)} if rate else {}
        if self.flag("tune_mm_mlp_adapter", "False") == "True":
            return {"name": "frozen"}
        if self.lora:
            settings = {"rank": int(self.flag("lora_r")), "alpha": float(self.flag("lora_alpha"))}
            return {"name": "lora", "dropout": float(self.flag("lora_dropout")), **settings, **own}
        return {"name": "full", **own}

    def stage(self, data: Path, pictures: Path) -> dict[str, Any]:
        micro, accumulation = int(self.flag("per_device_train_batch_size")), self.accumulation
        length = int(self.flag("model_max_length"))
        return {
            "tuner": self.tuner(),
            "conversation": {"plain": "plain", "v1": "vicuna_v1"}[self.flag("version")],
            "data": {
                "sources": [{"path": str(data / Path(self.flag("data_path")).name), "images": str(pictures)}],
                "order": "llava_grouped" if self.flag("group_by_modality_length", "False") == "True" else "llava",
                "max_length": length,
                "bad_rows": "skip",
                "pictures": {"alpha": "drop", "exif": False},
            },
            "lr": float(self.flag("learning_rate")),
            "epochs": float(self.flag("num_train_epochs")),
            "batch": {"size": micro * accumulation, "micro": micro},
            "loss": "micro_batches",
            "schedule": {"decay": "cosine", "warmup_ratio": float(self.flag("warmup_ratio"))},
            "gradient_clipping": float(self.flag("max_grad_norm")),
            "precision": "fp32",
            "seed": self.record["hf_seed"],
        }

    @property
    def accumulation(self) -> int:
        return int(self.flag("gradient_accumulation_steps", "1"))

    def losses(self) -> list[float]:
        """Of every optimiser step: its micro-batches' means, averaged."""
        values = [step["loss_over_ga"] for step in self.record["steps"]]
        size = self.accumulation
        return [sum(values[i : i + size]) for i in range(0, len(values), size)]

    def targets(self) -> list[int]:
        values = [step["n_targets"] for step in self.record["steps"]]
        return [sum(values[i : i + self.accumulation]) for i in range(0, len(values), self.accumulation)]


@cache
def recorded() -> dict[str, Run]:
    """Every run that ended well, by name."""
    shared = Path(os.environ.get("LENSMITH_SHARED", Path(__file__).parents[3] / "shared"))
    found = {}
    for file in sorted((shared / "golden" / "train").glob("*.json")):
        record = json.loads(file.read_text())
        if isinstance(record, dict) and "argv" in record and record["error"] is None:
            found[file.stem] = Run(record, load_file(file.with_suffix(".safetensors")))
    return found


@pytest.fixture(scope="module")
def parts(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base weights of all runs, each part as a checkpoint of its own."""
    folder = tmp_path_factory.mktemp("parts")
    stored = shared / "golden" / "model"
    weights = load_file(stored / "weights_backbone.safetensors")
    tower = {name.removeprefix(TOWER): t for name, t in weights.items() if name.startswith(TOWER)}
    rest = {name: t for name, t in weights.items() if not name.startswith(TOWER)}
    for name, tensors in (("clip", tower), ("llama", rest)):
        (folder / name).mkdir()
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
        for file in (stored / f"tiny_{name}").iterdir():
            shutil.copyfile(file, folder / name / file.name)
    return folder


def spec_of(run: Run, parts: Path, shared: Path, start: Path) -> dict[str, Any]:
    initial = {n: t for n, t in run.side("init").items() if n.startswith(PROJECTOR)}
    save_file(initial, start / "mm_projector.safetensors")
    kind = run.flag("mm_projector_type", "linear")
    shape = {"name": "linear"} if kind == "linear" else {"name": "mlp", "depth": int(kind[3])}
    return {
        "model": {
            "vision_encoder": {"name": "clip", "checkpoint": str(parts / "clip")},
            "image_splitter": {"pad": "pad"}.get(run.flag("image_aspect_ratio"), "square"),
            "connector": {**shape, "checkpoint": str(start / "mm_projector.safetensors")},
            "language_model": {
                "name": "vicuna",
                "checkpoint": str(parts / "llama"),
                "tokenizer": str(shared / "tokenizer" / "vicuna_v1_5"),
            },
        },
        "stages": {"run": run.stage(shared / "golden" / "train", shared / "golden" / "images" / "inputs")},
    }


def with_adapter(run: Run, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Start from an artifact that wears the adapters the run began with: trained for one step that moves nothing."""
    stage = spec["stages"]["run"]
    one = {**stage, "max_steps": 1, "lr": STILL, "tuner": {**stage["tuner"], "connector_lr": STILL}}
    artifact = lensmith.train({**spec, "stages": {"run": one}}, output=folder / "begin")[-1]
    connector = lensmith.load(artifact).connector.state_dict()
    for name, start in run.side("init").items():
        if name.startswith(PROJECTOR):
            assert torch.equal(connector[name.removeprefix(PROJECTOR)], start)
    file = artifact / "adapter" / "adapter_model.safetensors"
    initial = {
        f"base_model.model.{n.replace('.default.', '.')}": t for n, t in run.side("init").items() if "lora_" in n
    }
    assert load_file(file).keys() == initial.keys()
    save_file(initial, file, metadata={"format": "pt"})
    from lensmith.files import inventory

    manifest = json.loads((artifact / "manifest.json").read_text())
    (artifact / "manifest.json").unlink()
    manifest["files"] = inventory(artifact)
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    return {**spec, "start_from": str(artifact)}


@pytest.mark.parametrize("name", [*recorded(), *["none"] * (not recorded())])
def test_a_recorded_run_is_repeated(name: str, shared: Path, parts: Path, tmp_path: Path) -> None:
    run = recorded()[name]
    spec = spec_of(run, parts, shared, tmp_path)
    loaded = lensmith.load_spec(spec)
    stage = loaded.stages["run"]

    mixture = Mixture(stage.data)
    reader = RowReader(mixture, conversation(loaded.model, stage), tokenizer(loaded.model), max_length=2048)
    steps = rows_of_steps(stage, mixture, len(run.losses()), stage.batch.micro or 1, reader.lengths)
    assert [reader.row(row).id for rows in steps for row in rows] == run.record["order"]

    if run.lora:
        spec = with_adapter(run, spec, tmp_path)
    artifact = lensmith.train(spec, output=tmp_path / "run")[-1]

    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics" / "run.jsonl").read_text().splitlines()]
    assert [line["targets"] for line in lines] == run.targets()
    expected_rates = [max(g["lr"] for g in step["groups"]) for step in run.record["steps"]][:: run.accumulation]
    assert [max(line["lr"].values()) for line in lines] == pytest.approx(expected_rates, rel=1e-6)
    for line, expected in zip(lines, run.losses(), strict=True):
        assert line["loss"] == pytest.approx(expected if expected == expected else 0.0, rel=RELATIVE), line["step"]

    final = run.side("final")
    model = lensmith.load(artifact)
    ours: dict[str, Tensor] = {}
    for full, tensor in model.named_parameters():
        part, own = full.split(".", 1)
        ours[(PROJECTOR if part == "connector" else "") + own.removeprefix("network.")] = tensor.detach()
    adapters = {n.removeprefix("network."): n for n in final if "lora_" in n}
    assert final.keys() <= ours.keys(), sorted(final.keys() - ours.keys())[:3]
    assert bool(adapters) is run.lora
    begin = run.side("init")
    moved = 0
    for n, expected in final.items():
        torch.testing.assert_close(ours[n], expected, rtol=RELATIVE, atol=RELATIVE, msg=lambda m, n=n: f"{n}: {m}")
        moved += n in begin and not torch.allclose(expected, begin[n], atol=RELATIVE)
    assert moved
