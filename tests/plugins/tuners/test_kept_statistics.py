"""Encoders with batch norms under every tuner that trains them: what was trained is what is loaded and merged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lensmith
from lensmith.spec.build import load_spec

NORMED = {"name": "timm", "model": "test_maxvit"}
TUNERS = {
    "lora": {"name": "lora", "rank": 2, "targets": {"vision_encoder": "all"}},
    "both": {"name": "lora", "rank": 2, "targets": {"vision_encoder": "all", "language_model": "all"}},
    "full": {"name": "full", "language_model": False, "vision_encoder": True},
    "embeddings": {"name": "full", "language_model": False, "vision_encoder": [{"layers": "0"}]},
    "frozen": "frozen",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, model_spec: dict[str, Any]) -> Path:
    """The encoder's weights as a file, statistics moved off their start, so that no artifact must hold it."""
    torch.manual_seed(5)
    model = {**model_spec, "vision_encoder": NORMED}
    encoder: Any = lensmith.assemble(load_spec({"model": model}).model).vision_encoder
    with torch.no_grad():
        for name, buffer in encoder.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(torch.randn_like(buffer) * 0.1)
    folder = tmp_path_factory.mktemp("normed")
    encoder.save(folder)
    return folder


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", TUNERS)
def test_T1_features_are_those_that_were_trained(
    stages: Callable[..., dict[str, Any]],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    precision: str,
) -> None:
    from lensmith.training.stages import _Stage

    if precision == "bf16" and name not in ("lora", "full"):
        pytest.skip("one of each kind is enough")
    spec = stages(tune=TUNERS[name])
    spec["model"]["vision_encoder"] = {**NORMED, "checkpoint": str(checkpoint)}
    spec["stages"]["tune"]["precision"] = precision
    seen: dict[str, torch.Tensor] = {}
    pixels = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    publish = _Stage.publish

    def look(self: Any, engine: Any, *rest: Any) -> None:
        encoder = engine.model.vision_encoder
        seen["training"] = torch.tensor(float(encoder.training))
        engine.model.eval()
        with torch.no_grad():
            seen["features"] = engine.model.encode(pixels).float()
        seen.update({n: b.clone() for n, b in encoder.named_buffers() if "running" in n})
        publish(self, engine, *rest)

    monkeypatch.setattr(_Stage, "publish", look)
    lensmith.train(spec, output=tmp_path)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    folders = [tmp_path / "tune"]
    if name in ("lora", "both"):
        lensmith.merge(tmp_path / "tune", tmp_path / "merged")
        folders.append(tmp_path / "merged")
    for folder in folders:
        model = lensmith.load(folder, dtype=dtype)
        with torch.no_grad():
            again = model.encode(pixels).float()
        tolerance = 1e-5 if precision == "fp32" else 5e-2
        assert (again - seen["features"]).abs().max() <= tolerance * seen["features"].abs().max(), folder
        for buffer, tensor in model.vision_encoder.named_buffers():
            if "running" in buffer:
                assert torch.equal(tensor, seen[buffer].to(tensor.dtype)), (folder, buffer)


def test_T1_only_norms_that_train_move(stages: Callable[..., dict[str, Any]], checkpoint: Path) -> None:
    for name, moving in (("lora", False), ("full", True), ("frozen", False)):
        spec = stages(tune=TUNERS[name])
        spec["model"]["vision_encoder"] = {**NORMED, "checkpoint": str(checkpoint)}
        loaded = load_spec(spec)
        tuner = lensmith.implementation(lensmith.Kind.TUNER, loaded.stages["tune"].tuner)(loaded.stages["tune"].tuner)
        model = lensmith.assemble(loaded, tuner=tuner)
        tuner.prepare(model)
        model.train()
        assert bool(model.moving_statistics()) is moving, name
        norms = [m for m in model.vision_encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms
        assert {norm.training for norm in norms} == {moving}, name


def test_N7_norms_that_move_are_told_by_name(
    stages: Callable[..., dict[str, Any]], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("full", "lora"):
        spec = stages(tune=TUNERS[name])
        spec["model"]["vision_encoder"] = {**NORMED, "checkpoint": str(checkpoint)}
        lensmith.train(spec, output=tmp_path / name, max_steps=1)
        told = " ".join(capsys.readouterr().err.split())
        known = "batch norms take the statistics of each micro-batch of a process (vision_encoder.network."
        assert (known in told) is (name == "full")


def test_T1_buffers_that_move_under_adapters_are_in_the_artifact_and_handed_on(
    stages: Callable[..., dict[str, Any]], checkpoint: Path, tmp_path: Path
) -> None:
    """As an encoder of somebody's that keeps an average of its own while its weights are frozen would leave them."""
    spec = stages(tune=TUNERS["lora"])
    spec["model"]["vision_encoder"] = {**NORMED, "checkpoint": str(checkpoint)}
    model = lensmith.assemble(load_spec(spec))
    name, buffer = next((n, b) for n, b in model.vision_encoder.named_buffers() if n.endswith("running_mean"))
    buffer.add_(1.0)
    folder = model.save(tmp_path / "one")
    assert (folder / "buffers.safetensors").is_file()
    again = lensmith.load(folder, dtype=torch.float32)
    assert torch.equal(again.vision_encoder.get_buffer(name), buffer)
    handed = lensmith.load(again.save(tmp_path / "two"), dtype=torch.float32)
    assert torch.equal(handed.vision_encoder.get_buffer(name), buffer)
