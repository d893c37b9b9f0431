"""The web application: OpenAI's chat interface over one engine."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.security import HTTPBearer

from lensmith.data.bounded import Abandoned, BoundedDecoder
from lensmith.errors import DataError
from lensmith.generation import Question
from lensmith.serving.body import BodyLimit
from lensmith.serving.connections import Connections, Watch
from lensmith.serving.engine import Engine, Job, Sampling
from lensmith.serving.error_answers import answer_errors, failure
from lensmith.serving.failures import RequestError, described
from lensmith.serving.gate import Gate
from lensmith.serving.images import open_pictures, picture_bytes
from lensmith.serving.limits import Limits
from lensmith.serving.messages import Shown, dialogue
from lensmith.serving.protocol import (
    AnswerMessage,
    ChatCompletion,
    ChatRequest,
    Choice,
    ErrorAnswer,
    Health,
    ServedModel,
    ServedModels,
    Usage,
)
from lensmith.serving.reply import Reply
from lensmith.serving.turns import FairTurns, Gone

_LOG = logging.getLogger("lensmith.serving")
_LOOK = 0.5
"""Seconds between looks at whether a client is still there."""
_DECODERS = 2
"""Requests whose pictures are decoded at the same time."""
_COLDEST = 1e-3
_LONG = 100
"""Characters that a token has at most on average: more than that many for each position are not tokenised at all."""
_CLOSED = 499
"""Nobody reads it: the client has gone."""

T = TypeVar("T")
_bearer = HTTPBearer(auto_error=False, description="The key that the server was started with, if any.")


class Service:
    """What the application's addresses do.

    Args:
        engine: with the model.
        name: of the model.
        limits: see there.
    """

    def __init__(self, engine: Engine, name: str, limits: Limits) -> None:
        self.engine = engine
        self.name = name
        self.limits = limits
        self.created = int(time.time())
        self._reading: Counter[str] = Counter()
        # Pictures are decoded a few requests at a time, so that their limits bound the memory of all, and laid out on a
        # thread of their own: nothing that is only words waits for them.
        self._decoders = [BoundedDecoder() for _ in range(_DECODERS)]
        self._turns = FairTurns(_DECODERS)
        self._decoding = ThreadPoolExecutor(_DECODERS, thread_name_prefix="lensmith-decode")
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="lensmith-prepare")
        self._words = ThreadPoolExecutor(1, thread_name_prefix="lensmith-words")
        self._fetching = ThreadPoolExecutor(16, thread_name_prefix="lensmith-fetch")

    def close(self) -> None:
        """End the processes that decode."""
        for decoder in self._decoders:
            decoder.close()

    @property
    def model(self) -> ServedModel:
        """What is served."""
        return ServedModel(id=self.name, created=self.created)

    def named(self, name: str) -> ServedModel:
        """The model of that name.

        Raises:
            RequestError: there is another one here.
        """
        if name != self.name:
            text = f"the model {name!r} is not served here; there is {self.name!r}"
            raise RequestError(text, status=404, param="model", code="model_not_found")
        return self.model

    async def chat(self, asked: ChatRequest, request: Request) -> Response:
        """Answer, whole or piece by piece.

        Raises:
            RequestError: a request that is refused.
        """
        self.named(asked.model)
        asked.refuse_unserved()
        longest = min(asked.longest or self.limits.tokens, self.limits.tokens)
        peer = request.client.host if request.client is not None else ""
        self._turn_away(peer)
        self._reading[peer] += 1
        try:
            sample = await self._lay_out(asked, request, peer)
        except (Gone, Abandoned):
            return Response(status_code=_CLOSED)
        finally:
            self._reading[peer] -= 1
            self._reading += Counter()  # forgets who has nothing here
        answer = _Answer(self, asked, sample, min(longest, self.engine.room(sample)), peer)
        self.engine.add(answer.job)
        if asked.stream:
            return StreamingResponse(answer.events(), media_type="text/event-stream", headers=_STREAM_HEADERS)
        return await answer.whole(request)

    def _turn_away(self, peer: str) -> None:
        """Refuse a request where too many are here, of all together or of one address.

        Raises:
            RequestError: 503.
        """
        jobs = [*self.engine.waiting, *self.engine.running]
        present = self._reading.total() + len(jobs)
        if present >= self.limits.waiting:
            raise RequestError(f"{present} requests are here already; ask again later", status=503, code="overloaded")
        own = self._reading[peer] + sum(job.peer == peer for job in jobs)
        if own >= self.limits.of_one:
            text = f"{own} requests of your address are here already; ask again later"
            raise RequestError(text, status=503, code="overloaded")

    async def _lay_out(self, asked: ChatRequest, request: Request, peer: str) -> Any:
        said = dialogue(asked.messages)
        characters = sum(len(turn.text) for turn in said.turns) + len(said.system or "")
        context = self.engine.model.language_model.shape.context_length
        if characters > _LONG * context:
            text = f"the messages have {characters:,} characters, the language model {context:,} positions"
            raise RequestError(text, param="messages")
        images: list[Any] = []
        if said.pictures:
            files = await _on(self._fetching, lambda: picture_bytes(said.pictures, self.limits))
            async with self._turns.place(peer, request.is_disconnected):
                images = await self._decoded(files, said.pictures, request)

        def prepare() -> Any:
            try:
                return self.engine.lay_out(Question(tuple(images), "", said.turns, said.system))
            except DataError as error:
                raise RequestError(str(error), param="messages") from error

        return await _on(self._preparing if images else self._words, prepare)

    async def _decoded(self, files: Sequence[bytes], shown: Sequence[Shown], request: Request) -> list[Any]:
        """Decode in another process, as long as the client is there."""
        left = threading.Event()
        decoder = self._decoders.pop() if self._decoders else BoundedDecoder()

        def decode() -> list[Any]:
            policy = self.engine.model.pictures.policy
            try:
                return open_pictures(files, shown, policy, self.limits, decoder, lambda: not left.is_set())
            finally:
                self._decoders.append(decoder)

        work = asyncio.ensure_future(_on(self._decoding, decode))
        try:
            while not work.done():
                await asyncio.wait([work], timeout=_LOOK)
                if not work.done() and await request.is_disconnected():
                    left.set()
            return await work
        finally:
            left.set()


_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class _Answer:
    """One answer on its way to its client."""

    def __init__(self, service: Service, asked: ChatRequest, sample: Any, limit: int, peer: str) -> None:
        engine = service.engine
        stop = tuple(dict.fromkeys((*asked.stops, *engine.model.conversation.stop_strings())))
        self.reply = Reply(engine.model.language_model.tokenizer, stop, limit)
        self.service = service
        self.asked = asked
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())
        loop = asyncio.get_running_loop()
        self.pieces: asyncio.Queue[str | BaseException | None] = asyncio.Queue()

        def tell(piece: str | BaseException | None) -> None:
            with suppress(RuntimeError):  # the loop has ended, and with it everybody who listens
                loop.call_soon_threadsafe(self.pieces.put_nowait, piece)

        # Below that logits grow past what can be added up, and the most likely id is sure anyway.
        temperature = asked.temperature if asked.temperature and asked.temperature >= _COLDEST else 0.0
        sampling = Sampling(temperature, 1.0 if asked.top_p is None else asked.top_p)
        self.job = Job(sample, self.reply, sampling, asked.seed, tell if asked.stream else None, tell, stop, peer)

    @property
    def usage(self) -> Usage:
        """Counts so far."""
        prompt, answer = len(self.job.sample.ids), len(self.reply.ids)
        return Usage(prompt_tokens=prompt, completion_tokens=answer, total_tokens=prompt + answer)

    async def whole(self, request: Request) -> Response:
        """The answer at once; a client that leaves ends it."""
        try:
            while True:
                try:
                    ended = await asyncio.wait_for(self.pieces.get(), _LOOK)
                    break
                except TimeoutError:
                    if await request.is_disconnected():
                        return Response(status_code=_CLOSED)
        finally:
            self.job.cancel()
        if isinstance(ended, BaseException):
            raise failure(ended)
        message = AnswerMessage(content=self.reply.text)
        choice = Choice(message=message, finish_reason=self.reply.reason or "stop")
        answer = ChatCompletion(
            id=self.id, created=self.created, model=self.service.name, choices=[choice], usage=self.usage
        )
        return JSONResponse(answer.model_dump())

    async def events(self) -> AsyncIterator[str]:
        """The answer as server-sent events."""
        try:
            yield self._event({"role": "assistant", "content": ""})
            while (piece := await self.pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    yield f"data: {json.dumps(described(failure(piece)))}\n\n"
                    return
                yield self._event({"content": piece})
            yield self._event({}, self.reply.reason or "stop")
            if self.asked.stream_options is not None and self.asked.stream_options.include_usage:
                yield self._line([], usage=self.usage.model_dump())
            yield "data: [DONE]\n\n"
        finally:
            self.job.cancel()

    def _event(self, delta: dict[str, str], reason: str | None = None) -> str:
        return self._line([{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}])

    def _line(self, choices: list[dict[str, Any]], **more: Any) -> str:
        chunk = {"id": self.id, "object": "chat.completion.chunk", "created": self.created}
        return f"data: {json.dumps({**chunk, 'model': self.service.name, 'choices': choices, **more})}\n\n"


async def _on(threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, work)


def create_app(
    engine: Engine,
    name: str,
    limits: Limits,
    *,
    key: str = "",
    hosts: tuple[str, ...] = (),
    connections: Connections | None = None,
) -> FastAPI:
    """The application.

    Args:
        engine: with the model; started and closed with the application.
        name: of the model.
        limits: of requests.
        key, hosts: see `Gate`.
        connections: of the server, where it watches them.
    """
    service = Service(engine, name, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.close()
        service.close()

    router = APIRouter(dependencies=[Depends(_bearer)] if key else [])  # for the description; `Gate` checks

    @router.get("/v1/models", summary="The model that is served")
    async def models() -> ServedModels:
        return ServedModels(data=[service.model])

    @router.get("/v1/models/{name:path}", summary="The model of that name", responses=_refusals(404))
    async def model(name: str) -> ServedModel:
        return service.named(name)

    @router.post(
        "/v1/chat/completions",
        summary="Continue a conversation",
        response_model=ChatCompletion,
        responses={200: {"content": {"text/event-stream": {}}}, **_refusals(404, 413, 500, 503)},
    )
    async def chat(asked: ChatRequest, request: Request) -> Response:
        try:
            return await service.chat(asked, request)
        except RequestError:
            raise
        except Exception as error:
            raise failure(error) from error

    app = FastAPI(
        title="Lensmith",
        description="A model behind OpenAI's chat interface.",
        lifespan=lifespan,
        responses=_refusals(400, 401, 403),
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
    )

    @app.get("/health", summary="How busy the server is; asked without a key")
    async def health() -> Health:
        return Health(running=len(engine.running), waiting=len(engine.waiting))

    app.include_router(router)
    app.add_middleware(BodyLimit, limit=limits.body)
    app.add_middleware(Gate, key=key, hosts=hosts)
    if connections is not None:
        app.add_middleware(Watch, connections=connections)  # added last, it stands first
    answer_errors(app)
    _leave_out_422(app)
    return app


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer, "description": "A refusal"} for status in statuses}


def _leave_out_422(app: FastAPI) -> None:
    """What is invalid is answered with 400, as OpenAI does; the schema says so."""
    for path in app.openapi()["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
