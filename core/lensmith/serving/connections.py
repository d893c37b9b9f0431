"""Connections of strangers: those that are silent, half said or too many are closed before they keep others out.

uvicorn ends what stays idle after an answer, but waits for ever for a first request, and turns everybody away once too
many connections are open. What touches uvicorn's protocol stands here, through methods of `asyncio.Protocol` alone.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lensmith.serving.failures import RequestError, described

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOOK = 0.5
_PHRASES = {408: "Request Timeout", 503: "Service Unavailable"}


@dataclass(frozen=True)
class Patience:
    """How long and how many.

    Args:
        header: seconds from the connection, or from the last answer, to the end of a request's header.
        body: seconds for a body, besides those that its size takes.
        rate: bytes a second that a body must come with at least.
        reading: seconds that a client may take to read a piece of its answer.
        of_one: connections of one address that wait for a request or are sending one.
        of_all: the same of all addresses.
        total: connections.
    """

    header: float = 10.0
    body: float = 30.0
    rate: int = 16 * 1024
    reading: float = 60.0
    of_one: int = 64
    of_all: int = 256
    total: int = 800


@dataclass(eq=False)
class _Connection:
    transport: asyncio.Transport
    peer: str
    since: float
    heard: float
    received: int = 0
    state: str = "header"  # then "body", "busy"


@dataclass
class Connections:
    """All connections of one server; used on its event loop alone."""

    patience: Patience = field(default_factory=Patience)
    known: dict[tuple[str, int], _Connection] = field(default_factory=dict)

    def made(self, transport: asyncio.Transport, address: tuple[str, int]) -> bool:
        """Take a new connection in; false where it was turned away."""
        now = asyncio.get_running_loop().time()
        if not self.known:
            asyncio.get_running_loop().call_later(_LOOK, self._look)
        if len(self.known) >= self.patience.total and not self._give_up_one(list(self.known.values())):
            _refuse(transport, 503, "too many connections are open; try again later", "overloaded")
            return False
        self.known[address] = _Connection(transport, address[0], now, now)
        mine = [one for one in self.known.values() if one.peer == address[0] and one.state != "busy"]
        if len(mine) > self.patience.of_one:
            self._give_up_one(mine[:-1])
        open_ = [one for one in self.known.values() if one.state != "busy"]
        if len(open_) > self.patience.of_all:
            counts: dict[str, int] = {}
            for one in open_:
                counts[one.peer] = counts.get(one.peer, 0) + 1
            most = max(counts, key=lambda peer: counts[peer])
            self._give_up_one([one for one in open_[:-1] if one.peer == most] or open_[:-1])
        return True

    def heard(self, address: tuple[str, int], size: int) -> None:
        """Bytes came."""
        if (one := self.known.get(address)) is not None:
            one.heard = asyncio.get_running_loop().time()
            one.received += size

    def lost(self, address: tuple[str, int]) -> None:
        """It is closed."""
        self.known.pop(address, None)

    def turn(self, address: tuple[str, int], state: str) -> None:
        """What a connection is at now: its `header`, its `body`, or `busy` with being answered."""
        if (one := self.known.get(address)) is not None:
            one.state = state
            one.since = one.heard = asyncio.get_running_loop().time()
            one.received = 0

    def abort(self, address: tuple[str, int]) -> None:
        """Close at once, whatever is still to be sent."""
        if (one := self.known.pop(address, None)) is not None:
            one.transport.abort()

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        for one in list(self.known.values()):
            waited = now - one.since
            if one.state == "header" and waited > self.patience.header:
                told = one.received > 0
                self._close(one, 408 if told else 0, f"no whole header in {self.patience.header:g} seconds")
            elif one.state == "body" and waited > self.patience.body + one.received / self.patience.rate:
                self._close(one, 408, "the body comes too slowly")
        if self.known:
            asyncio.get_running_loop().call_later(_LOOK, self._look)

    def _give_up_one(self, among: list[_Connection]) -> bool:
        """Close the one that was silent for longest and is not being answered."""
        silent = min((one for one in among if one.state != "busy"), key=lambda one: one.heard, default=None)
        if silent is not None:
            told = 503 if silent.received or silent.state == "body" else 0
            self._close(silent, told, "too many connections are open and this one was silent for longest")
        return silent is not None

    def _close(self, one: _Connection, status: int, text: str) -> None:
        self.known = {address: other for address, other in self.known.items() if other is not one}
        _refuse(one.transport, status, text, "timeout" if status == 408 else "overloaded")


def _refuse(transport: asyncio.Transport, status: int, text: str, code: str) -> None:
    """Tell in the form that the documentation names, where there is anything to answer, and close."""
    if transport.is_closing():
        return
    if status:
        body = json.dumps(described(RequestError(f"{text}; connect again", status=status, code=code))).encode()
        head = f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\n"
        transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
    transport.close()


def protocol(connections: Connections) -> type[asyncio.Protocol]:
    """uvicorn's protocol, watched: for its `Config(http=…)`."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Watched(H11Protocol):
        _address: tuple[str, int] = ("", 0)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            name = transport.get_extra_info("peername")
            super().connection_made(transport)
            if isinstance(name, tuple):
                self._address = (str(name[0]), int(name[1]))
                connections.made(transport, self._address)

        def data_received(self, data: bytes) -> None:
            connections.heard(self._address, len(data))
            super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            connections.lost(self._address)
            super().connection_lost(exc)

    return Watched


class Watch:
    """Tells `Connections` what each request's connection is at; the outermost layer of the application.

    Args:
        app: what is behind it.
        connections: of the server.
    """

    def __init__(self, app: ASGIApp, connections: Connections) -> None:
        self.app = app
        self.connections = connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        client: Any = scope.get("client")
        if scope["type"] != "http" or not client:
            await self.app(scope, receive, send)
            return
        address = (client[0], client[1])
        headers = dict(scope["headers"])
        body = headers.get(b"content-length", b"0").strip() not in (b"", b"0") or b"transfer-encoding" in headers
        self.connections.turn(address, "body" if body else "busy")

        async def heard() -> Message:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                self.connections.turn(address, "busy")
            return message

        async def told(message: Message) -> None:
            try:
                await asyncio.wait_for(send(message), self.connections.patience.reading)
            except TimeoutError:
                self.connections.abort(address)
                raise OSError("the client reads nothing of its answer") from None

        try:
            await self.app(scope, heard, told)
        finally:
            self.connections.turn(address, "header")
