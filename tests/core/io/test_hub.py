"""No network: every command that needs the model hub says so in one line, soon, and asks it once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ID = "nobody/nothing-7b"


class Silent:
    """A hub at a port of this machine that takes connections and never answers; it counts them."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.count = 0
        self.held: list[socket.socket] = []
        threading.Thread(target=self._take, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def _take(self) -> None:
        while True:
            try:
                taken, _ = self.socket.accept()
            except OSError:
                return
            self.count += 1
            self.held.append(taken)


@pytest.fixture
def silent() -> Iterator[Silent]:
    hub = Silent()
    yield hub
    hub.socket.close()


def refusing() -> str:
    """The address of a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def run(folder: Path, hub: str, *arguments: str, **environment: str) -> tuple[int, str, str]:
    surroundings = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    done = subprocess.run(
        [sys.executable, "-m", "lensmith.cli", *arguments],
        cwd=folder,
        env=surroundings | {"HF_ENDPOINT": hub, "HF_HOME": str(folder / "cache")} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def spec(spec: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The tiny spec with its language model on the hub; its config is here, so that `check` and `plan` need no hub."""
    local = spec["model"]["language_model"]["checkpoint"]
    spec["model"]["language_model"] |= {"checkpoint": ID, "config": local}
    spec["stages"].pop("align")
    (tmp_path / "run.json").write_text(json.dumps(spec))
    return spec


COMMANDS = {
    "dry-run": ("train", "run.json", "--dry-run"),
    "train": ("train", "run.json", "-o", "out"),
    "data check": ("data", "check", "run.json"),
    "data preview": ("data", "preview", "run.json"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_N3_without_a_network_one_line(spec: dict[str, Any], tmp_path: Path, command: str) -> None:
    code, out, told = run(tmp_path, refusing(), *COMMANDS[command])
    assert code == 2
    assert out == ""
    (line,) = told.splitlines()
    assert line.startswith(f"error: model.language_model.checkpoint: '{ID}' is no folder here")
    assert "no answer from http://127.0.0.1" in line
    assert f"hf download {ID}" in line
    assert not (tmp_path / "out").exists()


def test_N3_a_config_of_the_hub_is_named_by_check(spec: dict[str, Any], tmp_path: Path) -> None:
    vision = spec["model"]["vision_encoder"]
    vision["checkpoint"] = "nobody/eyes"
    (tmp_path / "run.json").write_text(json.dumps(spec))
    code, _, told = run(tmp_path, refusing(), "check", "run.json")
    assert code == 2
    assert "model.vision_encoder: 'nobody/eyes' (config.json) is no folder here" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("command", ["check", "plan"])
def test_N3_what_needs_no_hub_does_not_ask_it(
    spec: dict[str, Any], tmp_path: Path, silent: Silent, command: str
) -> None:
    assert run(tmp_path, silent.address, command, "run.json")[0] == 0
    assert silent.count == 0


def test_N3_a_hub_that_never_answers_is_asked_once(spec: dict[str, Any], tmp_path: Path, silent: Silent) -> None:
    began = time.monotonic()
    code, _, told = run(tmp_path, silent.address, "data", "check", "run.json")
    assert code == 2
    assert len(told.splitlines()) == 1
    assert silent.count == 1
    assert time.monotonic() - began < 60  # of which 5 are waited


def test_N3_offline_mode_is_named(spec: dict[str, Any], tmp_path: Path, silent: Silent) -> None:
    code, _, told = run(tmp_path, silent.address, "data", "check", "run.json", HF_HUB_OFFLINE="1")
    assert code == 2
    assert "(HF_HUB_OFFLINE is set)" in told
    assert silent.count == 0


def test_N3_what_is_cached_is_used_although_the_hub_is_silent(
    spec: dict[str, Any], tiny_language_model: Path, tmp_path: Path, silent: Silent
) -> None:
    folder = tmp_path / "cache" / "hub" / f"models--{ID.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / commit).symlink_to(tiny_language_model)
    code, out, told = run(tmp_path, silent.address, "data", "check", "run.json")
    assert (code, told) == (0, "")
    assert "can be used" in out
    assert silent.count == 1


@pytest.mark.parametrize("command", [("import", ID, "-o", "out"), ("check", "run.json", "--for", "hf")])
def test_N3_imports_and_exports_too(spec: dict[str, Any], tmp_path: Path, command: tuple[str, ...]) -> None:
    code, _, told = run(tmp_path, refusing(), *command)
    if "--for" in command and code == 0:
        return  # nothing of the hub was needed
    assert code == 2
    assert "cannot be had from the model hub (no answer" in told
    assert len(told.splitlines()) <= 2
