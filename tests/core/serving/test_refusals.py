"""Whatever a request holds, the answer is a refusal in OpenAI's form, and the server goes on."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import struct
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from lensmith.cli import main
from lensmith.serving import remote
from lensmith.serving.failures import RequestError

PICTURE = [{"type": "image_url", "image_url": {"url": "data:"}}]
Post = Callable[..., tuple[int, Any]]


@pytest.fixture
def post(server: Any) -> Post:
    """Status and body of what a request gets."""

    def call(body: bytes, **headers: str) -> tuple[int, Any]:
        address = f"{server.url}/chat/completions"
        request = urllib.request.Request(address, body, {"Content-Type": "application/json", **headers})
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            return refused.code, json.load(refused)

    return call


def request(content: Any = "Hello", **fields: Any) -> bytes:
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": "tiny", "messages": messages, "max_tokens": 2, **fields}).encode()


def shows(url: str) -> bytes:
    return request([{"type": "image_url", "image_url": {"url": url}}])


def data(file: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(file).decode()


def png(width: int, height: int) -> bytes:
    """A header without pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return start + struct.pack(">I", 100) + b"IDAT"


def turns(*roles: str) -> bytes:
    return request(messages=[{"role": role, "content": "Hello"} for role in roles])


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, "field required"),
        (b"{", 400, "not JSON"),
        (b"[]", 400, "dictionary"),
        (b"\xff\xfe", 400, "body"),
        (b"[" * 200_000, 400, "body"),
        (b'{"model": ' + b"9" * 5000 + b"}", 400, "body"),
        (request(model="other"), 404, "there is 'tiny'"),
        (request(n=2), 400, "n is not served"),
        (request(tools=[{"type": "function"}]), 400, "tools is not served"),
        (request(response_format={"type": "json_object"}), 400, "response_format is not served"),
        (request(logprobs=True), 400, "logprobs is not served"),
        (request(temperature=-1), 400, "temperature"),
        (request(temperature="0"), 400, "temperature"),
        (request(temperature=float("nan")), 400, "temperature"),
        (request(max_tokens=0), 400, "max_tokens"),
        (request(max_tokens=True), 400, "max_tokens"),
        (request(max_completion_tokens=3), 400, "give one"),
        (request(seed=2**64), 400, "seed"),
        (request(stop=""), 400, "stop"),
        (request(stop="\ud800"), 400, "unicode"),
        (request("\ud800"), 400, "messages.0.content: Value error, holds half of a surrogate"),
        (request(model="\ud800"), 404, "not served"),
        (request(None), 400, "messages.0.content"),
        (request([{"type": "video"}]), 400, "messages.0.content.0: Input tag 'video'"),
        (request([{"type": "text"}]), 400, "messages.0.content.0.text: Field required"),
        (request(messages=[]), 400, "messages"),
        (request("word " * 20_000), 400, "positions, the language model has 20000"),
        (turns("tool"), 400, "messages.0.role"),
        (turns("system"), 400, "no user message"),
        (turns("user", "system"), 400, "put it first"),
        (turns("user", "user"), 400, "messages alternate"),
        (turns("user", "assistant"), 400, "a reply needs a question"),
        (request(messages=[{"role": "assistant", "content": PICTURE}]), 400, "only user messages"),
        (shows("https://example.org/a.png"), 400, "--allow-remote-images"),
        (shows("file:///etc/passwd"), 400, "not a data URL"),
        (shows("data:image/png,abc"), 400, "not base64"),
        (shows("data:image/png;base64,a"), 400, "damaged base64"),
        (shows("data:image/png;base64,\u00e9\u00e9\u00e9\u00e9"), 400, "damaged base64"),
        (shows(data(b"")), 400, "empty"),
        (shows(data(b"%PDF-1.7 and so on")), 400, "starts like a PDF"),
        (shows(data(png(60_000, 60_000))), 400, "3,600,000,000 pixels"),
        (shows(data(png(400, 300))), 400, "120,000 pixels together"),
        (shows(data(png(40, 30))), 400, "truncated"),
        (shows(data(b"\x89PNG" * 60_000)), 413, "more than 0.2 MiB"),
        (request([{"type": "image_url", "image_url": {"url": data(png(4, 3))}}] * 4), 400, "4 pictures where 3"),
        (b" " * 600_000, 413, "more than 524,288 bytes"),
    ],
)  # fmt: skip
def test_a_bad_request_is_told_what_is_wrong(post: Post, server: Any, body: bytes, status: int, told: str) -> None:
    found, answer = post(body)
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["type"] == "invalid_request_error"
    assert (found, told.lower() in answer["error"]["message"].lower()) == (status, True), answer
    assert "/tmp" not in answer["error"]["message"]
    assert server.process.poll() is None


def test_a_body_that_does_not_say_its_size_is_counted(server: Any) -> None:
    connection = http.client.HTTPConnection(str(urlsplit(server.url).netloc))
    pieces = (b" " * 100_000 for _ in range(8))
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", pieces, headers, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.load(answer)["error"]["code"] == "body_too_large"


def test_a_page_in_a_browser_cannot_reach_it_under_its_own_name(post: Post) -> None:
    assert post(request(), Host="rebound.example")[0] == 403
    assert post(request(), Host="localhost:8000")[0] == 200
    assert post(request(), **{"Content-Type": "text/plain"})[0] == 400  # what a page may send without asking


def test_a_key_is_asked_for_and_the_rest_of_the_server_works_behind_it(
    served: Path, start: Callable[..., Any], model: Any
) -> None:
    openai = pytest.importorskip("openai")
    options = ("--name", "other", "--max-waiting", "1", "--max-tokens", "1500")
    with start(served, *options, LENSMITH_API_KEY="secret") as running:
        assert running.get("/health")["status"] == "ok"
        wrong = openai.OpenAI(base_url=running.url, api_key="guess", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            wrong.models.list()
        client = openai.OpenAI(base_url=running.url, api_key="secret", max_retries=0)
        assert [one.id for one in client.models.list()] == ["other"]
        asked = {"model": "other", "messages": [{"role": "user", "content": "Hello"}]}
        chunks = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        next(chunks)
        with pytest.raises(openai.InternalServerError, match="ask again later") as turned_away:
            client.chat.completions.create(**asked)
        assert turned_away.value.status_code == 503
        *_, last = chunks
        assert last.usage.completion_tokens == 1500
    assert running.process.returncode == -15  # as asked for, and nothing on standard error


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_only_public_addresses_are_fetched_from(address: str, public: bool) -> None:
    assert remote.is_public(address) == public


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "http://localhost:1/a.png",
        "http://2130706433/",
        "http://[::1]/",
        "http://0x7f.1/",
        "ftp://example.org/a.png",
        "http://user@example.org/a.png",
        "http:///a.png",
        "http://[bad/",
        "http://a:99999/",
    ],
)
def test_addresses_that_are_not_fetched(url: str) -> None:
    with pytest.raises(RequestError, match=r"^here "):
        remote.fetch(url, "here", 1000, remote.deadline())


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server whose address counts as public, and which says what it is told."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = self.server.answers[self.path]  # type: ignore[attr-defined]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    real = remote.is_public
    monkeypatch.setattr(remote, "is_public", lambda address: address == "127.0.0.1" or real(address))
    yield listening
    listening.shutdown()
    listening.server_close()


def test_what_is_fetched_is_bounded(elsewhere: Any) -> None:
    at = f"http://127.0.0.1:{elsewhere.server_port}"
    elsewhere.answers = {
        "/a.png": (200, {}, b"x" * 1000),
        "/b.png?c": (302, {"Location": "/a.png"}, b""),
        "/round": (302, {"Location": "/round"}, b""),
        "/inside": (302, {"Location": "http://192.168.0.1/a.png"}, b""),
        "/file": (302, {"Location": "file:///etc/passwd"}, b""),
        "/gone": (404, {}, b""),
    }
    assert remote.fetch(f"{at}/a.png", "here", 1000, remote.deadline()) == b"x" * 1000
    assert remote.fetch(f"{at}/b.png?c", "here", 1000, remote.deadline()) == b"x" * 1000
    for path, told in (
        ("/round", "more than 3 times"),
        ("/inside", "not public"),
        ("/file", "neither"),
        ("/gone", "status 404"),
    ):
        with pytest.raises(RequestError, match=told):
            remote.fetch(at + path, "here", 1000, remote.deadline())
    with pytest.raises(RequestError, match="MiB") as refused:
        remote.fetch(f"{at}/a.png", "here", 999, remote.deadline())
    assert refused.value.status == 413


def test_a_slow_address_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "is_public", lambda address: True)
    monkeypatch.setattr(remote, "_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(RequestError, match="cannot be fetched"):
        remote.fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/", "here", 1000, remote.deadline())


def test_wrong_commands(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, told in (
            ([str(tmp_path)], "manifest.json"),
            ([str(served), "--port", port], f"cannot listen at 127.0.0.1:{port}"),
            ([str(served), "--host", "no.such.host.invalid"], "cannot listen at no.such.host.invalid"),
        ):
            monkeypatch.setattr(sys, "argv", ["lensmith", "serve", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
            assert ended.value.code == 2
            assert told in capsys.readouterr().err


def test_without_its_packages_the_command_says_how_to_get_them(served: Path) -> None:
    code = "import sys; sys.modules['fastapi'] = None; from lensmith.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", str(served)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'lensmith[serve]'" in done.stderr
