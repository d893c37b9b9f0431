"""A trained model, questions with pictures, a command line in this process, and a judge that follows a script."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lensmith.assembly import assemble
from lensmith.cli import main

Lensmith = Callable[..., tuple[int, str, str]]
COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220)}


@pytest.fixture(scope="session")
def artifact(model_spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An assembled model with a new connector, saved."""
    torch.manual_seed(3)
    return assemble({"model": model_spec}).save(tmp_path_factory.mktemp("evaluated") / "artifact")


@pytest.fixture
def lensmith(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Lensmith:
    """Run a command in this process: exit code, output and messages."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lensmith", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Ten questions of the benchmark `vqa`, eight with a picture, one of them with markup in its words."""
    folder = tmp_path / "questions"
    (folder / "pictures").mkdir(parents=True)
    lines = []
    for number in range(10):
        name, color = list(COLORS.items())[number % 3]
        row = {"id": f"q{number}", "question": f"What colour is it? {number}", "answers": [name], "category": name}
        if number < 8:
            Image.new("RGB", (40, 30 + number), color).save(folder / "pictures" / f"{number}.png")
            row["image"] = f"{number}.png"
        if number == 3:
            row["question"] = "<script>alert('x')</script> & \"colour\"?"
        lines.append(row)
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


class ScriptedJudge:
    """A chat-completions endpoint on this machine.

    Attributes:
        script: what it says to a request's messages, with its reason to finish where that is told; an integer is an
            HTTP status, with its message where that is told.
        asked: the requests so far.
    """

    def __init__(self) -> None:
        self.script: Callable[[dict[str, Any]], Any] = lambda request: "8 9"
        self.asked: list[dict[str, Any]] = []
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                judge.asked.append(request)
                said = judge.script(request)
                said, more = said if isinstance(said, tuple) else (said, None)
                body: dict[str, Any] = {"error": {"message": more or "scripted"}}
                if isinstance(said, str):
                    choice = {
                        "index": 0,
                        "finish_reason": more or "stop",
                        "message": {"role": "assistant", "content": said},
                    }
                    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
                    body = {"id": "x", "object": "chat.completion", "created": 0, "model": request["model"]}
                    body |= {"choices": [choice], "usage": usage}
                data = json.dumps(body).encode()
                self.send_response(200 if isinstance(said, str) else said)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedJudge]:
    """A judge that says what a test wants."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    scripted = ScriptedJudge()
    thread = threading.Thread(target=scripted.server.serve_forever, daemon=True)
    thread.start()
    yield scripted
    scripted.server.shutdown()
    scripted.server.server_close()
    thread.join()
