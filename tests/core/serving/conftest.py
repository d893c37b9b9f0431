"""A real server process with a tiny model, and clients of it."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import lensmith

pytest.importorskip("fastapi", reason="the server needs lensmith[serve]")
pytest.importorskip("uvicorn", reason="the server needs lensmith[serve]")


@dataclass(frozen=True)
class Server:
    """One that runs.

    Args:
        url: its address, `/v1` included.
        process: it.
    """

    url: str
    process: subprocess.Popen[str]

    def get(self, path: str) -> Any:
        """What it says at a path."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + path) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="session")
def served(model_spec: dict[str, Any], tiny_language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact whose context is long enough for answers that take a while."""
    folder = tmp_path_factory.mktemp("served")
    language_model = shutil.copytree(tiny_language_model, folder / "language_model")
    config = json.loads((language_model / "config.json").read_text())
    (language_model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 20_000}))
    part = {**model_spec["language_model"], "checkpoint": str(language_model)}
    lensmith.assemble({"model": {**model_spec, "language_model": part}}).save(folder / "tiny")
    return folder / "tiny"


@pytest.fixture(scope="session")
def start() -> Callable[..., Any]:
    """Run `lensmith serve ARTIFACT --port 0 ARGUMENTS`."""

    @contextmanager
    def run(artifact: Path, *arguments: str, **environment: str) -> Iterator[Server]:
        command = [sys.executable, "-m", "lensmith.cli", "serve", str(artifact), "--port", "0", *arguments]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"\S+ at (http\S+/v1)\n", line)
        if found is None:
            process.kill()
            pytest.fail(line + process.stderr.read())
        server = Server(found[1], process)
        try:
            _await(server)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors, errors

    return run


@pytest.fixture(scope="session")
def server(served: Path, start: Callable[..., Any]) -> Iterator[Server]:
    """One for most tests: tight limits, two answers at a time."""
    limits = ("--max-body", "0.5", "--max-picture", "0.2", "--max-pixels", "100000", "--max-pictures", "3")
    with start(served, *limits, "--max-tokens", "15000", "--batch-size", "2") as running:
        yield running


@pytest.fixture(scope="session")
def model(served: Path) -> lensmith.MultimodalModel:
    """The same model in this process."""
    return lensmith.load(served)


@pytest.fixture(scope="session")
def picture() -> Callable[..., tuple[Image.Image, dict[str, Any]]]:
    """A picture of one colour, and the part of a message that shows it."""

    def make(color: str, size: tuple[int, int] = (40, 30)) -> tuple[Image.Image, dict[str, Any]]:
        image = Image.new("RGB", size, color)
        file = io.BytesIO()
        image.save(file, "PNG")
        url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        return image, {"type": "image_url", "image_url": {"url": url}}

    return make


def _await(server: Server) -> None:
    for _ in range(600):
        try:
            server.get("/health")
            return
        except OSError:
            assert server.process.poll() is None
            time.sleep(0.1)
    pytest.fail("the server does not answer")
