"""The same run, however it is split: micro-batches, ranks, ZeRO stages and workers change nothing but time."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lensmith
from lensmith.errors import DataError, TrainingError

# Four rows a step. With two ranks and micro-batches of one, rows 0 and 2 of a step are rank 0's, 1 and 3 rank 1's.
STEPS = (
    "1t1t",  # rank 1 has text alone
    "t1t1",  # rank 0 has
    "tttt",  # nobody has a picture
    "2t21",  # uneven numbers of pictures
    "1tt2",  # first one rank has none, then the other
)
# Small gradients are the rounding of sums in another order; a large eps keeps AdamW from making steps of them.
STAGE = {
    "lr": 3e-3,
    "batch": {"size": 4, "packing": "off"},  # which row is in which micro-batch is as written above
    "precision": "fp32",
    "optimizer": {"eps": 1e-3, "weight_decay": 0.1},
    "schedule": {"decay": "linear", "warmup_ratio": 0.0},
    "gradient_clipping": 1.0,
}


@pytest.fixture(scope="module")
def spec_of_three(lab: Any, model_spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Connector, then adapters, then everything; the second begins with a step without a picture.

    The parts have random weights, so every artifact must hold all of them, sharded or not.
    """
    folder = tmp_path_factory.mktemp("arranged")
    first = {"sources": [str(lab.arrange(folder, "".join(STEPS)))]}
    second = {"sources": [str(lab.arrange(folder, "".join((STEPS[2], *STEPS[:2], *STEPS[3:]))))]}
    fresh = copy.deepcopy(model_spec)
    for kind in ("vision_encoder", "language_model"):
        fresh[kind]["config"] = fresh[kind].pop("checkpoint")
    return {
        "model": fresh,
        "stages": {
            "align": {**STAGE, "tuner": "frozen", "data": first},
            "tune": {**STAGE, "tuner": {"name": "lora", "rank": 2, "connector": True}, "data": second},
            "whole": {**STAGE, "tuner": {"name": "full", "vision_encoder": True}, "data": first},
        },
    }


def split(spec: dict[str, Any], *, micro: int | None = None, zero: int = 0, workers: int = 0) -> dict[str, Any]:
    changed = copy.deepcopy(spec)
    for stage in changed["stages"].values():
        stage["batch"]["micro"] = micro
        stage["deepspeed"] = {"zero": zero}
        stage["data"]["workers"] = workers
    return changed


@pytest.fixture(scope="module")
def reference(lab: Any, spec_of_three: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One rank, whole batches, no sharding."""
    return lab.train(spec_of_three, tmp_path_factory.mktemp("reference"))


def assert_same(run: Any, reference: Any) -> None:
    for stage in ("align", "tune", "whole"):
        ours, theirs = run.metrics(stage), reference.metrics(stage)
        assert len(ours) == len(theirs) == len(STEPS)
        for a, b in zip(ours, theirs, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-5), (stage, a["step"])
            assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4), (stage, a["step"])
            assert {k: a[k] for k in ("lr", "targets", "tokens", "skipped")} == {
                k: b[k] for k in ("lr", "targets", "tokens", "skipped")
            }
        mine, others = run.weights(stage), reference.weights(stage)
        assert mine.keys() == others.keys()
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, others[name], rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_every_step_moves_something(reference: Any) -> None:
    """So that the comparisons below compare something."""
    for stage in ("align", "tune", "whole"):
        assert len(set(reference.losses(stage))) == len(STEPS)
    for stage, held in (("align", set()), ("tune", {"adapter"}), ("whole", set())):
        folders = {name.split("/")[0] for name in reference.weights(stage) if "/" in name}
        assert folders == {"language_model", "vision_encoder", *held}


@pytest.mark.parametrize("micro", [1, 2])
def test_accumulation(lab: Any, spec_of_three: dict[str, Any], reference: Any, tmp_path: Path, micro: int) -> None:
    assert_same(lab.train(split(spec_of_three, micro=micro), tmp_path / "run"), reference)


@pytest.mark.parametrize(("micro", "zero"), [(None, 0), (2, 0), (1, 2), (2, 3)])
def test_packing(
    lab: Any,
    spec_of_three: dict[str, Any],
    reference: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    micro: int | None,
    zero: int,
) -> None:
    """Rows end to end see only themselves: the same losses, gradients and weights; so with the loss in pieces."""
    monkeypatch.setattr("lensmith.loss.PIECE", 3 * 330)
    spec = split(spec_of_three, micro=micro, zero=zero)
    for stage in spec["stages"].values():
        stage["batch"]["packing"] = "auto"
    assert_same(lab.train(spec, tmp_path / "run"), reference)


@pytest.mark.parametrize("zero", [1, 2])
def test_zero_on_one_rank(lab: Any, spec_of_three: dict[str, Any], reference: Any, tmp_path: Path, zero: int) -> None:
    assert_same(lab.train(split(spec_of_three, micro=2, zero=zero), tmp_path / "run"), reference)


def test_workers_prepare_the_same_batches(
    lab: Any, spec_of_three: dict[str, Any], reference: Any, tmp_path: Path
) -> None:
    run = lab.train(split(spec_of_three, workers=1), tmp_path / "run")
    for stage in ("align", "tune", "whole"):
        assert run.losses(stage) == reference.losses(stage)


@pytest.mark.parametrize(("zero", "packing"), [(0, "off"), (2, "auto"), (3, "off")])
def test_two_ranks(
    lab: Any,
    spec_of_three: dict[str, Any],
    reference: Any,
    tmp_path: Path,
    write_spec: Callable[[dict[str, Any]], Path],
    zero: int,
    packing: str,
) -> None:
    spec = split(spec_of_three, micro=1, zero=zero)
    for stage in spec["stages"].values():
        stage["batch"]["packing"] = packing
    file = write_spec(spec)
    printed = lab.lensmith("train", file, "--nproc", "2", "--output", tmp_path / "run")
    assert [line for line in printed.splitlines() if line.startswith(str(tmp_path))] == [
        str(tmp_path / "run" / stage) for stage in ("align", "tune", "whole")
    ]
    assert_same(lab.run(tmp_path / "run"), reference)
    model = lensmith.load(tmp_path / "run" / "whole")
    assert all(p.numel() for p in model.parameters())


def test_N20_two_ranks_from_python(
    lab: Any,
    spec_of_three: dict[str, Any],
    reference: Any,
    tmp_path: Path,
    write_spec: Callable[[dict[str, Any]], Path],
) -> None:
    file, folder = write_spec(split(spec_of_three, micro=1)), tmp_path / "run"
    code = "import lensmith, sys; print(*lensmith.train(sys.argv[1], output=sys.argv[2], nproc=2), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code, str(file), str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == [str(folder / stage) for stage in ("align", "tune", "whole")]
    assert_same(lab.run(folder), reference)


class TestSharesThatCannotBe:
    def test_a_micro_batch_must_divide_the_share(self, spec_of_three: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(lensmith.SpecError, match=r"a step of 4 rows .* 3 at a time; set batch\.micro to 2 or 4"):
            lensmith.train(split(spec_of_three, micro=3), output=tmp_path)

    def test_ranks_must_divide_the_batch(self, spec_of_three: dict[str, Any]) -> None:
        from lensmith.spec.build import load_spec
        from lensmith.training.feed import Split

        stage = load_spec(split(spec_of_three, micro=4)).stages["align"]
        with pytest.raises(TrainingError, match=r"a step of 4 rows .* by 3 processes; set batch\.size to 3 or 6"):
            Split.of(stage, 0, 3)
        assert Split.of(stage, 1, 2).micro == 2  # a share is never larger than it can be
        stage = load_spec(split(spec_of_three, micro=2)).stages["align"]
        assert (Split.of(stage, 1, 2).micro, Split.of(stage, 1, 2).accumulation) == (2, 1)

    def test_every_row_goes_to_one_rank(self, spec_of_three: dict[str, Any]) -> None:
        from lensmith.spec.build import load_spec
        from lensmith.training.feed import Split

        stage = load_spec(split(spec_of_three, micro=1)).stages["align"]
        for world in (1, 2, 4):
            splits = [Split.of(stage, rank, world) for rank in range(world)]
            taken = [row for s in splits for own in s.rows([7, 5, 3, 1]) for row in own]
            assert sorted(taken) == [1, 3, 5, 7]
            assert all(len(s.rows([7, 5, 3, 1])) == s.accumulation for s in splits)

    @pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (1, 4), (2, 2), (4, 1), (8, 1)])
    def test_packed_micro_batches_are_of_like_length(self, world: int, accumulation: int) -> None:
        from lensmith.training.feed import Split

        step = list(range(100, 164))
        lengths = [2000 if row % 9 == 0 else row % 7 * 30 + 20 for row in step]
        size = len(step)
        splits = [Split(size, size // world // accumulation, accumulation, rank, world) for rank in range(world)]
        shared = [split.even_rows(step, lengths) for split in splits]
        assert [len(own) for own in shared] == [accumulation] * world
        assert sorted(row for own in shared for rows in own for row in rows) == step
        assert all(list(rows) == sorted(rows) for own in shared for rows in own)  # in the order of the step
        sums = [sum(lengths[row - 100] for row in rows) for own in shared for rows in own]
        assert max(sums) - min(sums) <= max(lengths)
        assert shared == [split.even_rows(step, lengths) for split in splits]

    def test_where_rows_are_fewer_than_ranks_some_get_none(self) -> None:
        from lensmith.training.feed import Split

        shared = [Split(4, 1, 1, rank, 4).even_rows([5, 6], [3, 9]) for rank in range(4)]
        assert shared == [[[6]], [[5]], [[]], [[]]]


def test_a_row_that_a_worker_cannot_read_is_told_without_a_stack_trace(
    lab: Any, spec_of_three: dict[str, Any], tmp_path: Path
) -> None:
    spec = split(spec_of_three, workers=1)
    file = lab.arrange(tmp_path / "gone", "1111")
    damaged = tmp_path / "gone" / "green.png"  # its header is whole, so that only the worker sees it
    damaged.write_bytes(damaged.read_bytes()[:45])
    for stage in spec["stages"].values():
        stage["data"]["sources"] = [str(file)]
    with pytest.raises(DataError) as caught:
        lab.train(spec, tmp_path / "run")
    assert str(caught.value).startswith(f"{file}:")
    assert "green.png" in str(caught.value)
    assert "Traceback" not in str(caught.value)


class TestWhichRowsArePacked:
    """By default those of a model that can, and what is done instead is said."""

    @pytest.fixture
    def said(
        self, lab: Any, spec: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> Callable[..., str]:
        def train(packing: Any = None, attention: str = "sdpa") -> str:
            stage = {"tuner": "frozen", "max_steps": 1, "batch": {"size": 4}}
            stage["batch"] |= {} if packing is None else {"packing": packing}
            chosen = lab.stages(spec, only=stage)
            chosen["model"]["language_model"]["attention"] = attention
            lab.train(chosen, tmp_path / f"{packing}-{attention}")
            return capsys.readouterr().err

        return train

    def test_it_is_said(self, said: Callable[..., str]) -> None:
        assert "rows of a micro-batch lie end to end, without padding" in said()
        assert "rows of a micro-batch lie padded: batch.packing is off" in said("off")
        assert "lie padded: its attention implementation would compute, and mask, all pairs" in said(attention="eager")
        assert "lie end to end, without padding" in said(True, attention="eager")

    @pytest.mark.parametrize("value", ["yes", 1, None])
    def test_what_it_may_be(self, spec: dict[str, Any], value: Any) -> None:
        from lensmith.errors import SpecError
        from lensmith.spec.build import load_spec

        spec["stages"]["align"]["batch"]["packing"] = value
        with pytest.raises(SpecError, match=r"stages\.align\.batch\.packing"):
            load_spec(spec)
