"""Whose turn it is: a few places for much work, shared among those who ask."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

_LOOK = 0.5


class Gone(Exception):
    """Who asked has left."""


class FairTurns:
    """A number of places. Who asks for many waits behind who asks for one.

    Args:
        places: that are taken at the same time.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def place(self, peer: str, gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[None]:
        """Hold one.

        Args:
            peer: who asks; peers have their turns one after the other.
            gone: asked while waiting.

        Raises:
            Gone: who asked has left.
        """
        await self._enter(peer, gone)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, peer: str, gone: Callable[[], Awaitable[bool]]) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(peer, deque()).append(turn)
        try:
            while not turn.done():
                await asyncio.wait([turn], timeout=_LOOK)
                if not turn.done() and await gone():
                    raise Gone
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._leave()  # it came in the same moment
            turn.cancel()
            raise

    def _leave(self) -> None:
        while self._waiting:
            peer, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[peer] = turns  # behind all others
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
