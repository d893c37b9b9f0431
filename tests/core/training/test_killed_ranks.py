"""Two ranks, sharded, killed at any moment and resumed: the losses and weights are those of a run left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from lensmith.training.distributed import shared_memory

KILLER = '''
"""Kills this process, all ranks or the command at a chosen file operation; Python imports it before anything else."""

import json, os, re, resource, signal, sys, threading, time

chosen = json.loads(os.environ.get("KILL_AT", "{}"))
victims = {
    "rank": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "everything": lambda: os.killpg(os.getpgrp(), signal.SIGKILL),
    "command": lambda: os.kill(int(os.environ["LENSMITH_WORKER"]), signal.SIGKILL),
}
seen = 0


def strike():
    time.sleep(chosen.get("delay", 0))
    os.close(os.open(chosen["struck"], os.O_WRONLY | os.O_CREAT))
    victims[chosen["victim"]]()
    time.sleep(60)


def watch(event, arguments):
    global seen
    if event not in ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove"):
        return
    path = str(arguments[0])
    if not ("/checkpoints/" in path or path.endswith(".png")):
        return
    if chosen.get("log"):
        os.write(log, f"{event} {path}\\n".encode())
    if chosen.get("event", event) == event and re.search(chosen.get("path", ""), path):
        seen += 1
        if seen == chosen.get("count", 0):
            threading.Thread(target=strike).start() if chosen.get("delay") else strike()


if os.environ.get("RANK") in chosen.get("ranks", "").split():
    if chosen.get("log"):
        log = os.open(chosen["log"] + os.environ["RANK"], os.O_WRONLY | os.O_CREAT)
    sys.addaudithook(watch)
    if chosen.get("largest_file"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (chosen["largest_file"], resource.RLIM_INFINITY))
'''
STEPS = 8
PATIENCE = 600.0
"""Seconds for a command that shares two cores with others."""


@pytest.fixture
def strike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Says where the next command is to be killed (nothing chosen, nothing killed); returns what is there after it."""
    (tmp_path / "killer").mkdir()
    (tmp_path / "killer" / "sitecustomize.py").write_text(KILLER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "killer"), os.environ.get("PYTHONPATH", "")]))

    def choose(**chosen: Any) -> Path:
        struck = tmp_path / "struck"
        struck.unlink(missing_ok=True)
        monkeypatch.setenv("KILL_AT", json.dumps({**chosen, "struck": str(struck)}))
        return struck

    return choose


@pytest.fixture(scope="module")
def sharded(model_spec: dict[str, Any], rows: Path) -> dict[str, Any]:
    """Adapters with dropout under ZeRO-2, then under ZeRO-3, in one run."""

    def stage(zero: int) -> dict[str, Any]:
        return {
            "tuner": {"name": "lora", "rank": 2, "dropout": 0.3},
            "data": {"sources": [str(rows)]},
            "lr": 1e-2,
            "max_steps": STEPS,
            "batch": {"size": 4, "micro": 1},
            "precision": "fp32",
            "gradient_clipping": 0.5,
            "deepspeed": {"zero": zero},
            "checkpoints": {"every": 2, "keep": 2},
        }

    return {"model": model_spec, "stages": {"two": stage(2), "three": stage(3)}}


def succeed(lab: Any, *arguments: str | Path) -> None:
    code, out, told = lab.finish(lab.command(*arguments), PATIENCE)
    assert code == 0, f"{out}\n{told}"


def left_alive(folder: Path) -> list[psutil.Process]:
    """Processes that still work on a run."""
    alive = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
        except psutil.Error:
            continue
    return alive


@pytest.fixture(autouse=True)
def no_memory_is_left() -> Iterator[None]:
    """Neither a run that ends nor one that is killed leaves DeepSpeed's shared buffers, which nobody would free."""
    before = set(shared_memory("*"))
    yield
    # Others may be running beside this test; theirs are as old as their runs, at most.
    left = {buffer for buffer in set(shared_memory("*")) - before if not mapped(buffer)}
    assert not left


def mapped(buffer: Path) -> bool:
    for process in psutil.process_iter():
        try:
            if any(entry.path == str(buffer) for entry in process.memory_maps()):
                return True
        except (psutil.Error, OSError):
            continue
    return not buffer.exists()


def assert_nobody_lives_on(folder: Path) -> None:
    _, alive = psutil.wait_procs(left_alive(folder), timeout=20)
    for process in alive:
        process.kill()
    assert not alive


def assert_only_whole_ones(run: Any, stage: str) -> None:
    """What has a checkpoint's name is one, whatever moment it was."""
    from lensmith.training.checkpoint import damage

    for step in run.checkpoints(stage):
        assert damage(run.checkpoint(stage, step)) == []


def assert_as_if_nothing_had_happened(run: Any, whole: Any, stages: dict[str, Any]) -> None:
    for stage, spec in stages.items():
        assert [entry["step"] for entry in run.metrics(stage)] == list(range(1, spec["max_steps"] + 1))
        assert run.losses(stage) == whole.losses(stage)  # to the last bit
        ours, theirs = run.weights(stage), whole.weights(stage)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_stopped_in_every_way(
    lab: Any,
    sharded: dict[str, Any],
    write_spec: Callable[[dict[str, Any]], Path],
    strike: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """One run, ended by a kill of a rank, of all, of the command, and by a scheduler; each time it goes on."""
    file, whole, run = write_spec(sharded), lab.run(tmp_path / "whole"), lab.run(tmp_path / "run")
    succeed(lab, "train", file, "--nproc", "2", "--output", whole.folder)

    def train(*options: str) -> subprocess.Popen[str]:
        process: subprocess.Popen[str] = lab.command("train", file, "--nproc", "2", "--output", run.folder, *options)
        return process

    # Rank 0, when all of a checkpoint is written and its name is to come.
    strike(ranks="0", event="os.rename", path=r"two/\.writing-step-00000004$", count=1, victim="rank")
    code, _, _ = lab.finish(train(), PATIENCE)
    assert code not in (0, 2)
    assert_nobody_lives_on(run.folder)
    assert run.checkpoints("two") == [2]
    assert (run.folder / "checkpoints" / "two" / ".writing-step-00000004" / "manifest.json").is_file()
    assert_only_whole_ones(run, "two")

    # Every process at once, when a checkpoint has its name and older ones are still to go.
    strike(ranks="0", event="os.rename", path="two/step-00000002", count=1, victim="everything")
    lab.finish(train("--resume"), PATIENCE)
    assert_nobody_lives_on(run.folder)
    assert run.checkpoints("two") == [2, 4, 6]
    assert_only_whole_ones(run, "two")

    # The command alone, while rank 1 writes its share of a checkpoint of the second stage; its ranks notice.
    strike(ranks="1", event="open", path="three/.writing-step-00000004", count=1, victim="command")
    process = train("--resume")
    process.communicate(timeout=PATIENCE)  # until nobody can write any more; before that, nobody asks how it ended
    assert process.returncode == -signal.SIGKILL
    assert_nobody_lives_on(run.folder)
    assert (run.folder / "two" / "manifest.json").is_file()
    assert run.checkpoints("three")[0] == 2
    assert_only_whole_ones(run, "three")

    # Rank 1 cannot write its share: both stop, instead of the other one waiting for it.
    strike(ranks="1", largest_file=20_000)
    code, _, told = lab.finish(train("--resume"), PATIENCE)
    assert code == 2
    assert "step-00000004 could not be written (rank 1: " in told
    assert "the ones before it are untouched" in told
    assert run.checkpoints("three") == [2]
    assert not list((run.folder / "checkpoints" / "three").glob(".writing-*"))

    # A scheduler's signal, to the command: every rank ends its step, and a checkpoint of that step is there.
    strike()
    process, last = train("--resume"), run.checkpoints("three")[-1]
    lab.wait_for(lambda: len(run.losses("three")) == last, process, PATIENCE)  # what came after it is forgotten
    lab.wait_for(lambda: len(run.losses("three")) > last, process, PATIENCE)
    process.send_signal(signal.SIGTERM)
    code, _, told = lab.finish(process, PATIENCE)
    assert code == 128 + signal.SIGTERM, told
    stopped = run.checkpoints("three")[-1]
    assert last < stopped < STEPS
    assert f"stopped by SIGTERM after step {stopped} of {STEPS}; the checkpoint is " in told
    assert told.count("go on with --resume") == 1
    assert "Traceback" not in told
    assert_nobody_lives_on(run.folder)

    succeed(lab, "train", file, "--nproc", "2", "--output", run.folder, "--resume")
    assert_as_if_nothing_had_happened(run, whole, sharded["stages"])


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_twenty_kills(
    lab: Any,
    sharded: dict[str, Any],
    write_spec: Callable[[dict[str, Any]], Path],
    strike: Callable[..., Path],
    tmp_path: Path,
    zero: int,
) -> None:
    """At random moments of reading, writing, naming and deleting, and a little after."""
    spec = {"model": sharded["model"], "stages": {"tune": {**sharded["stages"]["two"], "max_steps": 40}}}
    spec["stages"]["tune"]["deepspeed"] = {"zero": zero}
    file, whole, run = write_spec(spec), lab.run(tmp_path / "whole"), lab.run(tmp_path / "run")
    strike(ranks="0 1", log=str(tmp_path / "moments-"))
    succeed(lab, "train", file, "--nproc", "2", "--output", whole.folder)
    moments = [len((tmp_path / f"moments-{rank}").read_text().splitlines()) for rank in (0, 1)]
    draw, kills, finished = random.Random(zero), 0, 0
    while kills < 20:
        rank = draw.randrange(2)
        struck = strike(
            ranks=str(rank),
            count=draw.randint(1, moments[rank] // 5),
            delay=draw.choice((0, draw.random() * 0.3)),
            victim=draw.choice(("rank", "everything", "command")),
        )
        resume = ["--resume"] if run.checkpoints("tune") else []
        process = lab.command("train", file, "--nproc", "2", "--output", run.folder, *resume)
        code, _, told = lab.finish(process, PATIENCE)
        assert_nobody_lives_on(run.folder)
        assert struck.exists() == (code != 0), f"exit code {code}\n{told}"
        if code == 0:
            assert_as_if_nothing_had_happened(run, whole, spec["stages"])
            run, finished = lab.run(tmp_path / f"run-{kills}"), finished + 1
            continue
        kills += 1
        assert_only_whole_ones(run, "tune")
    strike()
    if run.checkpoints("tune"):
        succeed(lab, "train", file, "--nproc", "2", "--output", run.folder, "--resume")
        assert_as_if_nothing_had_happened(run, whole, spec["stages"])
    else:
        assert finished
