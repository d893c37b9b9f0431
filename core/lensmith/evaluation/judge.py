"""The judge: a chat model behind any OpenAI-compatible endpoint, its replies kept so that they can be replayed."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensmith.errors import LensmithError
from lensmith.files import writing
from lensmith.interfaces.benchmark import JudgeRequest
from lensmith.io.json import parse_json

PRICES = {
    "gpt-4": (30.0, 60.0),
    "gpt-4-0314": (30.0, 60.0),
    "gpt-4-0613": (30.0, 60.0),
    "gpt-3.5-turbo-0613": (1.5, 2.0),
}
"""US dollars for a million tokens, in and out, of the papers' judges when they were offered."""
_LETTERS_PER_TOKEN = 4
_WIDE = 0x2E80
"""From here on a character is about a token."""
_ATTEMPTS = 3
"""So often an empty reply is asked for again."""


@dataclass(frozen=True)
class Reply:
    """What a judge said, and the tokens that it counted (0 where it did not)."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0


Ask = Callable[[JudgeRequest], Reply]


class CachedJudge:
    """A `Judge` that asks each question once and remembers the reply, also over runs.

    An empty reply is asked for again, and never kept: where it stays empty, the next run asks.

    Args:
        cache: JSON lines, appended; made where it is not there. None keeps replies in memory alone.
        ask: how to get a reply; None replays the cache and asks nobody.
        parallel: requests that wait at the same time.
        report: called with the number of replies had and wanted.
    """

    def __init__(
        self,
        cache: Path | None,
        ask: Ask | None,
        *,
        parallel: int = 4,
        report: Callable[[int, int], None] = lambda had, wanted: None,
    ) -> None:
        self.cache, self.ask, self.parallel, self.report = cache, ask, parallel, report
        self._lock = threading.Lock()
        self._known = _read_cache(cache) if cache is not None else {}

    def missing(self, requests: Sequence[JudgeRequest]) -> list[JudgeRequest]:
        """Requests whose reply is not in the cache."""
        return [request for request in requests if _identity(request) not in self._known]

    def __call__(self, requests: Sequence[JudgeRequest]) -> list[str]:
        """Replies in the order of the requests; see `Judge`."""
        open_requests = self.missing(requests)
        if open_requests and self.ask is None:
            raise LensmithError(
                f"{len(open_requests)} of {len(requests)} replies of the judge are not in the cache"
                f" ({open_requests[0].key}, …), and no endpoint is given; say where the judge is with --judge-url"
            )
        if open_requests:
            self._fetch(open_requests, len(requests))
        return [self._known[_identity(request)] for request in requests]

    def _fetch(self, requests: Sequence[JudgeRequest], wanted: int) -> None:
        done = wanted - len(requests)
        with ThreadPoolExecutor(self.parallel) as pool:
            running: list[Future[None]] = [pool.submit(self._one, request) for request in requests]
            try:
                while True:
                    finished, left = wait(running, timeout=1.0, return_when=FIRST_EXCEPTION)
                    for future in finished:
                        future.result()
                    self.report(done + len(finished), wanted)
                    if not left:
                        return
            except BaseException:
                for future in running:
                    future.cancel()
                raise

    def _one(self, request: JudgeRequest) -> None:
        assert self.ask is not None
        for _ in range(_ATTEMPTS):
            reply = self.ask(request)
            if reply.text.strip():
                break
        entry = {
            "key": request.key,
            "request": _digest(request),
            "model": request.model,
            "temperature": request.temperature,
            "reply": reply.text,
            "tokens_in": reply.tokens_in,
            "tokens_out": reply.tokens_out,
        }
        with self._lock:
            self._known[_identity(request)] = reply.text
            if self.cache is not None and reply.text.strip():
                with writing(self.cache), self.cache.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def estimate(requests: Sequence[JudgeRequest], price: tuple[float, float] | None = None) -> str:
    """What asking will take, told before it starts.

    Args:
        requests: to be asked.
        price: US dollars for a million tokens, in and out; by default the known ones of the papers' judges.
    """
    if not requests:
        return "no request to the judge: every reply is in the cache"
    tokens_in = sum(_tokens(message["content"]) for request in requests for message in request.messages)
    tokens_out = sum(request.max_tokens for request in requests)
    models = sorted({request.model for request in requests})
    text = f"{len(requests)} requests to {', '.join(models)}: about {tokens_in:,} tokens in, at most {tokens_out:,} out"
    rates = price or (PRICES.get(models[0]) if len(models) == 1 else None)
    if rates is None:
        return f"{text}; its price is not known here (--judge-price IN/OUT, dollars a million tokens)"
    cost = [tokens_in * rates[0] / 1e6, (tokens_in * rates[0] + tokens_out * rates[1]) / 1e6]
    return f"{text}; {cost[0]:.2f} to {cost[1]:.2f} US dollars at {rates[0]:g} in and {rates[1]:g} out a million"


def _tokens(text: str) -> int:
    wide = sum(ord(character) >= _WIDE for character in text)
    return wide + -(-(len(text) - wide) // _LETTERS_PER_TOKEN)


def _digest(request: JudgeRequest) -> str:
    told: Mapping[str, Any] = {
        "model": request.model,
        "messages": [dict(message) for message in request.messages],
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _identity(request: JudgeRequest) -> tuple[str, str]:
    return request.key, _digest(request)


def _read_cache(path: Path) -> dict[tuple[str, str], str]:
    """Replies by key and request; a last line that a kill cut off is dropped.

    Raises:
        LensmithError: another line that is no reply.
    """
    if not path.exists():
        return {}
    known = {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        path.write_bytes(whole)
    for number, line in enumerate(whole.split(b"\n")[:-1], 1):
        try:
            entry = parse_json(line, str(path), line=number)
            key, request, reply = (entry[name] for name in ("key", "request", "reply"))
            if not all(isinstance(each, str) for each in (key, request, reply)):
                raise TypeError("key, request and reply are text")
            if reply.strip():  # an empty one of an older release is asked for again
                known[key, request] = reply
        except (ValueError, KeyError, TypeError) as error:
            raise LensmithError(
                f"{path}:{number}: no reply of a judge ({error!r}); name another --judge-cache"
            ) from error
    return known
