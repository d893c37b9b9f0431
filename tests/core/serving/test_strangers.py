"""Connections and images of strangers keep nobody else waiting."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the server needs lensmith[serve]")

from lensmith.data.bounded import Abandoned, BoundedDecoder, TooManyPixels, bounded_size
from lensmith.data.pixels import PictureError
from lensmith.serving.connections import Connections, Patience
from lensmith.serving.limits import Limits
from lensmith.serving.turns import FairTurns, Gone
from lensmith.spec.pictures import PicturePolicy

MANY = 140


@pytest.fixture(scope="module")
def running(served: Path, start: Callable[..., Any]) -> Iterator[Any]:
    with start(served, "--max-tokens", "4", "--max-waiting", "20") as server:
        yield server


def connect(server: Any, sent: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
    parts = urlsplit(server.url)
    found = socket.create_connection((str(parts.hostname), int(parts.port or 0)), 10, source_address=(source, 0))
    found.sendall(sent)
    return found


def ask(server: Any, content: Any = "Hello", timeout: float = 30) -> dict[str, Any]:
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": content}]}).encode()
    request = urllib.request.Request(
        server.url + "/chat/completions", body, {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.loads(answer.read())  # type: ignore[no-any-return]


HALVES = {
    "idle": b"",
    "half a line": b"POST /v1/ch",
    "half a header": b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX: ",
    "half a body": b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 1000\r\n\r\n{"model": ',
    "no body": b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n",
    "chunks to come": b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
    "asked once, kept open": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("kind", HALVES)
def test_A3_silent_connections_lock_nobody_out(running: Any, kind: str) -> None:
    held = [connect(running, HALVES[kind]) for _ in range(MANY)]
    try:
        for _ in range(3):
            assert ask(running)["choices"]
        assert running.get("/health")["status"] == "ok"
    finally:
        for one in held:
            one.close()


def test_A3_half_a_header_is_ended_in_the_documented_form(running: Any) -> None:
    half, silent = connect(running, HALVES["half a header"]), connect(running)
    with half, silent:
        half.settimeout(30)
        silent.settimeout(30)
        told = b""
        while piece := half.recv(65536):
            told += piece
        head, _, body = told.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"content-type: application/json" in head
        assert json.loads(body)["error"]["code"] == "timeout"
        assert silent.recv(10) == b""


class Pipe:
    """What `Connections` uses of a transport."""

    def __init__(self) -> None:
        self.sent, self.closed = b"", False

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def test_A3_limits_of_one_address_and_of_all() -> None:
    async def run() -> None:
        watched = Connections(Patience(of_one=3, of_all=5, total=8))
        pipes: dict[tuple[str, int], Pipe] = {}

        def come(peer: str, port: int, state: str = "header") -> Pipe:
            pipes[peer, port] = pipe = Pipe()
            watched.made(pipe, (peer, port))  # type: ignore[arg-type]
            watched.turn((peer, port), state)
            return pipe

        busy = come("a", 0, "busy")
        first = come("a", 1)
        come("a", 2)
        come("a", 3)
        watched.heard(("a", 1), 5)
        come("a", 4)
        assert not first.closed  # it spoke last
        assert not busy.closed
        assert pipes["a", 2].closed
        come("b", 1)
        come("b", 2)
        come("c", 1)  # the sixth that waits: one of whom has most gives way
        assert [pipe.closed for (peer, _), pipe in pipes.items() if peer in "bc"] == [False] * 3
        assert sum(not pipe.closed for (peer, _), pipe in pipes.items() if peer == "a") == 3
        for port in range(10, 20):
            come("d", port, "busy")
        assert len(watched.known) <= 8
        last = come("e", 1, "busy")
        assert b"503" in last.sent
        assert json.loads(last.sent.partition(b"\r\n\r\n")[2])["error"]["code"] == "overloaded"
        watched.known.clear()

    asyncio.run(run())


def test_A3_of_many_requests_of_one_address_some_are_left_to_others() -> None:
    assert Limits().of_one == 48
    assert Limits(waiting=1).of_one == 1
    assert Limits(waiting=20, of_one=20).of_one == 20


# ---- images that take long ----


def slow_jpeg(scans: int = 3000) -> bytes:
    """A progressive JPEG whose last scan is repeated: each takes another pass over all its blocks."""
    buffer = io.BytesIO()
    Image.new("RGB", (6000, 6000), "white").save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + b"\xff\xd9"


def small_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, "PNG")
    return buffer.getvalue()


def part(data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(data).decode()}}


@pytest.fixture
def decoder() -> Iterator[BoundedDecoder]:
    made = BoundedDecoder(1.0)
    yield made
    made.close()


def test_A4_an_image_that_takes_too_long_is_refused_and_the_next_is_read(decoder: BoundedDecoder) -> None:
    policy = PicturePolicy()
    begun = time.monotonic()
    with pytest.raises(PictureError, match=r"here: takes more than 1 seconds of computing to decode; save it again"):
        decoder.decode([slow_jpeg()], ["here"], policy, 40_000_000)
    assert time.monotonic() - begun < 20
    found = decoder.decode([small_png()], ["there"], policy, 40_000_000)
    assert found[0].size == (40, 30)
    assert found[0].getpixel((0, 0)) == (255, 0, 0)


def test_A4_who_leaves_ends_the_work(decoder: BoundedDecoder) -> None:
    decoder.seconds = 60.0
    left = threading.Event()
    threading.Timer(1.0, left.set).start()
    begun = time.monotonic()
    with pytest.raises(Abandoned):
        decoder.decode([slow_jpeg(20_000)], ["here"], PicturePolicy(), 40_000_000, lambda: not left.is_set())
    assert time.monotonic() - begun < 20
    assert decoder.decode([small_png()], ["x"], PicturePolicy(), 10_000)[0].size == (40, 30)


def test_A4_sizes_are_looked_at_before_anything_is_decoded(decoder: BoundedDecoder) -> None:
    with pytest.raises(TooManyPixels) as caught:
        decoder.decode([small_png(), small_png()], ["a", "b"], PicturePolicy(), 2000)
    assert (caught.value.pixels, caught.value.at) == (2400, 1)
    with pytest.raises(PictureError, match="b: is not a picture") as refused:
        decoder.decode([small_png(), b"hello"], ["a", "b"], PicturePolicy(), 2000)
    assert refused.value.at == 1  # type: ignore[attr-defined]


def test_A4_files_of_rows_are_decoded_under_the_same_limits(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(small_png())
    assert bounded_size(tmp_path / "a.png", PicturePolicy()) == (30, 40)
    with pytest.raises(PictureError, match="there is no such file"):
        bounded_size(tmp_path / "b.png", PicturePolicy())


def test_A4_words_are_answered_while_images_take_long(running: Any) -> None:
    """Three requests with images that take the whole time limit, and text beside them."""
    slow = part(slow_jpeg())
    ended: list[str] = []

    def attack() -> None:
        try:
            ask(running, [slow, {"type": "text", "text": "?"}], timeout=120)
        except urllib.error.HTTPError as error:
            said = error.read()
            ended.append(json.loads(said)["error"]["message"] if said else f"status {error.code}")

    threads = [threading.Thread(target=attack) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    alive = sum(thread.is_alive() for thread in threads)
    for _ in range(3):
        assert ask(running, timeout=20)["choices"]
    assert alive == 3
    for thread in threads:
        thread.join(120)
    assert len(ended) == 3
    assert all("seconds of computing to decode" in text for text in ended), ended
    assert ask(running, [part(small_png()), {"type": "text", "text": "?"}])["choices"]


def test_A4_plain_ppm_with_comments_is_refused_at_once(running: Any) -> None:
    bomb = b"P3\n" + b"#\n" * 400_000 + b"2 1\n255\n0 0 0 0 0 0\n"
    begun = time.monotonic()
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(running, [part(bomb)])
    assert refused.value.code == 400
    assert "PPM of a kind that is not read" in json.loads(refused.value.read())["error"]["message"]
    assert time.monotonic() - begun < 20


def test_A4_a_text_chunk_that_unpacks_to_much_is_refused(running: Any) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    data = small_png()
    bomb = data[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 90_000_000)) + data[33:]
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(running, [part(bomb)])
    assert refused.value.code == 400


def test_A4_turns_are_shared_among_those_who_ask() -> None:
    async def run() -> list[str]:
        turns, order = FairTurns(1), []
        here = asyncio.Event()

        async def there() -> bool:
            return False

        async def work(peer: str) -> None:
            async with turns.place(peer, there):
                order.append(peer)
                await here.wait()

        tasks = [asyncio.create_task(work(peer)) for peer in ("a", "a", "a", "a", "b", "c")]
        await asyncio.sleep(0.05)
        here.set()
        await asyncio.gather(*tasks)

        async def gone() -> bool:
            return True

        here.clear()
        holder = asyncio.create_task(work("a"))
        await asyncio.sleep(0.01)
        with pytest.raises(Gone):
            async with turns.place("b", gone):
                pass
        here.set()
        await holder
        await work("z")
        return order

    assert asyncio.run(run()) == ["a", "a", "b", "c", "a", "a", "a", "z"]
