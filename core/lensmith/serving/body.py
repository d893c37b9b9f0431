"""The bound on a request's bytes, which are never all in memory before they are counted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from lensmith.serving.failures import RequestError, described

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


_SILENCE = 30
"""Seconds without a byte of a body that is not complete."""
_TOGETHER = 16
_LEAST = 64 << 20
"""Bodies of all requests are at most so many times the limit of one, or so many bytes."""
_PASSED_OVER = 4
"""Times the limit of a refused body that is read, and thrown away, before the refusal is sent."""


class BodyLimit:
    """Refuses bodies that are too large with 413, as soon as they say so or turn out to be.

    Starlette's own limit answers in plain text, which OpenAI's clients do not read.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        text = f"the body is more than {self.limit:,} bytes; send fewer or smaller pictures"
        said = dict(scope["headers"]).get(b"content-length", b"")
        if said.isdigit() and int(said[:20]) > self.limit:
            await self._pass_over(receive)
            refusal = described(RequestError(text, code="body_too_large"))
            await JSONResponse(refusal, 413, {"Connection": "close"})(scope, receive, send)
            return
        size = 0
        whole = False

        async def counted() -> Message:
            nonlocal size, whole
            try:
                message = await (receive() if whole else asyncio.wait_for(receive(), _SILENCE))
            except TimeoutError:
                raise HTTPException(408, f"no byte in {_SILENCE} seconds", {"Connection": "close"}) from None
            whole = not message.get("more_body", False)
            came = len(message.get("body", b""))
            size += came
            self._held += came
            if size > self.limit:
                raise HTTPException(413, text, {"Connection": "close"})
            if self._held > max(_TOGETHER * self.limit, _LEAST) and not whole:
                told = "the requests that are being sent are too large together; send this one again later"
                raise HTTPException(503, told, {"Connection": "close"})
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self._held -= size

    async def _pass_over(self, receive: Receive) -> None:
        """Read what a client is still sending, within bounds: most read no answer before all is sent."""
        passed, more = 0, True
        while more and passed <= _PASSED_OVER * self.limit:
            try:
                message = await asyncio.wait_for(receive(), _SILENCE)
            except TimeoutError:
                return
            passed += len(message.get("body", b""))
            more = message.get("more_body", False)
