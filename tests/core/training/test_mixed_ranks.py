"""Two ranks that see pictures at different steps keep step with each other, whatever is sharded and whatever trains."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Four rows a step in two micro-batches of one row a rank: rows 0 and 2 of a step are rank 0's, rows 1 and 3 rank 1's.
STEPS = (
    "1t2t",
    "1t1t",
    "2t1t",  # rank 1 had text alone for three steps
    "t1t2",  # then rank 0 has
    "tttt",
    "12t1",
)


@pytest.fixture(scope="module")
def every_sharding(lab: Any, model_spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run: adapters and then everything at ZeRO 0, 1, 2 and 3, each stage going on from the one before."""
    folder = tmp_path_factory.mktemp("mixed")
    stages = {}
    for name, tuner in (
        ("lora", {"name": "lora", "rank": 2}),
        ("full", {"name": "full", "vision_encoder": True}),
    ):
        for zero in (0, 1, 2, 3):
            stages[f"{name}-{zero}"] = {
                "tuner": tuner,
                "data": {"sources": [str(lab.arrange(folder, "".join(STEPS)))]},
                "lr": 3e-3,
                "batch": {"size": 4, "micro": 1, "packing": "off"},  # packed rows are shared by their lengths
                "precision": "fp32",
                "optimizer": {"eps": 1e-3},  # see test_equivalence
                "gradient_clipping": 1.0,
                "deepspeed": {"zero": zero},
            }
    return {"model": model_spec, "stages": stages}


def test_the_ranks_keep_step(
    lab: Any, every_sharding: dict[str, Any], write_spec: Callable[[dict[str, Any]], Path], tmp_path: Path
) -> None:
    """The losses, gradients and counts of one rank that takes whole steps without sharding."""
    plain = copy.deepcopy(every_sharding)
    for stage in plain["stages"].values():
        stage.update(batch={"size": 4}, deepspeed={"zero": 0})
    alone = lab.train(plain, tmp_path / "alone")
    process = lab.command("train", write_spec(every_sharding), "--nproc", "2", "--output", tmp_path / "ranks")
    code, _, told = lab.finish(process, timeout=400)
    assert code == 0, told
    together = lab.run(tmp_path / "ranks")
    for name in every_sharding["stages"]:
        ours, theirs = together.metrics(name), alone.metrics(name)
        assert len(ours) == len(theirs) == len(STEPS)
        for a, b in zip(ours, theirs, strict=True):
            assert (a["targets"], a["tokens"]) == (b["targets"], b["tokens"])
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-5), (name, a["step"])
            assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-3), (name, a["step"])
