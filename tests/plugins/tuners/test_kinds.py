"""An artifact and a checkpoint of every kind of tuner answer as the model in memory did, under any name, offline."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lensmith
from lensmith import artifacts

from .conftest import QUESTION, command, logits

KINDS: dict[str, Any] = {
    "frozen": "frozen",
    "full": {"name": "full", "language_model": {"layers": "2-3"}, "vision_encoder": True},
    "lora": {"name": "lora", "rank": 4, "targets": {"language_model": ["q_proj"], "vision_encoder": ["v_proj"]}},
    "qlora": {"name": "qlora", "rank": 4},
    "prefix": {"name": "peft", "method": "prefix_tuning", "config": {"num_virtual_tokens": 2}},
}


@pytest.fixture(scope="module", params=KINDS)
def written(
    request: pytest.FixtureRequest,
    stages: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path, list[torch.Tensor]]:
    """The kind, its run, and the logits of the model in memory at each write: a checkpoint's, the artifact's."""
    seen: list[torch.Tensor] = []
    original = artifacts.write_artifact

    def watched(folder: Path, model: Any, *rest: Any) -> None:
        original(folder, model, *rest)
        if rest[1] is not None and rest[3].stage["name"] == "tune":
            seen.append(logits(model))
            model.train()

    folder = tmp_path_factory.mktemp(request.param)
    spec = stages(align="frozen", tune=KINDS[request.param])
    spec["stages"]["tune"]["checkpoints"] = {"every": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "write_artifact", watched)
        lensmith.train(spec, output=folder)
    return request.param, folder, seen


def test_what_is_read_answers_as_what_was_in_memory(
    written: tuple[str, Path, list[torch.Tensor]], rows: Path, tmp_path: Path
) -> None:
    _kind, run, (first, second) = written
    places = (run / "checkpoints/tune/step-00000001", first), (run / "tune", second)
    assert not torch.equal(first, second)
    for number, (artifact, expected) in enumerate(places):
        # A name that says something else, as a folder of the original's would.
        moved = shutil.copytree(artifact, tmp_path / f"llava-mpt-qlora-{number}")
        model = lensmith.load(moved)
        torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-6)
        saved = lensmith.load(model.save(tmp_path / f"{number} again"))
        assert torch.equal(logits(saved), logits(model))
        question = [(rows.parent / "1.png", QUESTION), (None, QUESTION)]
        assert saved.generate_batch(question) == model.generate_batch(question)


def test_what_is_merged_answers_so_too(written: tuple[str, Path, list[torch.Tensor]], tmp_path: Path) -> None:
    kind, run, (first, second) = written
    if kind not in ("lora", "qlora"):
        pytest.skip("nothing to merge")
    for artifact, expected in ((run / "checkpoints/tune/step-00000001", first), (run / "tune", second)):
        done = lensmith.merge(artifact, tmp_path / f"lora of {artifact.name}")
        assert "language_model" in done.parts
        torch.testing.assert_close(logits(lensmith.load(done.folder)), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_command_takes_a_checkpoint(written: tuple[str, Path, list[torch.Tensor]], rows: Path) -> None:
    kind, run, _ = written
    if kind != "qlora":
        pytest.skip("one kind is enough")
    checkpoint = run / "checkpoints/tune/step-00000001"
    code, answer, errors = command("generate", checkpoint, "-i", rows.parent / "1.png", "-p", QUESTION)
    assert code == 0, errors
    assert answer.strip() == lensmith.load(checkpoint).generate(rows.parent / "1.png", QUESTION)
    assert "gemm_4bit_forward" not in errors


def test_what_trains_moves_and_nothing_else(
    written: tuple[str, Path, list[torch.Tensor]], prepared: Callable[..., Any]
) -> None:
    kind, run, _ = written
    fresh, _, planned = prepared(KINDS[kind])
    loaded = dict(lensmith.load(run / "tune").named_parameters())
    names = {p.name for p in planned}
    for name, tensor in fresh.named_parameters():
        if name.startswith("connector."):
            assert name in names
        elif name not in names:
            assert torch.equal(tensor, loaded[name]), name
        elif not name.endswith(("lora_A.default.weight", "prefix.weight")):  # these start at random
            assert not torch.equal(tensor, loaded[name]), name
