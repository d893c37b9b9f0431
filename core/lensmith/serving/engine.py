"""One model and the requests that wait for it: answered in their order, those that can be together."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lensmith.data.batch import collate
from lensmith.data.sample import Sample
from lensmith.generation import Question, prepare
from lensmith.inference.answering import answer_keys
from lensmith.inference.decoder import Decoder
from lensmith.inference.prompts import Prompts
from lensmith.interfaces.language_model import GenerationOptions
from lensmith.serving.reply import Reply

if TYPE_CHECKING:
    from lensmith.model import MultimodalModel


@dataclass(frozen=True)
class Sampling:
    """How ids are chosen; see `GenerationOptions`. Requests with the same can be answered together."""

    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(eq=False)
class Job:
    """One request.

    Args:
        sample: its prompt, laid out.
        reply: its answer.
        sampling: how.
        seed: of its sampling, which does not depend on other requests; None draws one.
        told: called on the engine's thread with each piece of the answer, where somebody wants pieces.
        ended: called there once, with what went wrong if anything did.
        stop: the texts that end the answer, for models that must be told before.
        peer: the address that asked.
    """

    sample: Sample
    reply: Reply
    sampling: Sampling
    seed: int | None
    told: Callable[[str], None] | None
    ended: Callable[[BaseException | None], None]
    stop: tuple[str, ...] = ()
    peer: str = ""
    cancelled: bool = False
    done: bool = False

    def cancel(self) -> None:
        """Nobody wants the answer any more: it ends with its next id."""
        self.cancelled = True

    def grow(self, token: int) -> bool:
        """Take the next id; returns whether the answer goes on."""
        if self.cancelled:
            return False
        going = self.reply.add(token)
        if self.told is not None and (piece := self.reply.piece()):
            self.told(piece)
        if not going:
            self.end()
        return going

    def end(self, error: BaseException | None = None) -> None:
        """Tell that it is over, once."""
        if self.done:
            return
        self.done = True
        if self.cancelled:
            error = error or Left()
        if error is None and self.reply.reason is None:
            self.reply.reason = "stop"
            if self.told is not None and (piece := self.reply.piece()):
                self.told(piece)
        self.ended(error)


class Left(Exception):
    """Ends the generation of a request that was cancelled."""


class Engine:
    """A thread with a model.

    Args:
        model: used by this thread alone from now on, but for its tokenizer and the preparation of pictures.
        batch_size: answers that grow at the same time.
    """

    def __init__(self, model: MultimodalModel, batch_size: int = 8) -> None:
        self.model = model.eval()
        self.batch_size = batch_size
        self.running: list[Job] = []
        self.waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="lensmith-engine", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """End all answers with their next id, and the thread."""
        with self._changed:
            self._closed = True
            for job in [*self.running, *self.waiting]:
                job.cancel()
            self._changed.notify()
        self._thread.join(timeout=10)

    def lay_out(self, question: Question) -> Sample:
        """A prompt of this model; on any thread, one at a time.

        Raises:
            DataError: see `prepare`.
        """
        return prepare(self.model, question)

    def room(self, sample: Sample) -> int:
        """Ids that an answer may have at most."""
        return self.model.language_model.shape.context_length - len(sample.ids)

    def add(self, job: Job) -> None:
        """Put a request behind the others."""
        with self._changed:
            self.waiting.append(job)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.waiting or self._closed)
                if self._closed:
                    break
                self.running = self._next()
            try:
                with torch.inference_mode():
                    self._answer(self.running)
                failed: BaseException | None = None
            except BaseException as error:  # the requests' handlers raise it; the engine goes on
                failed = error
            for job in self.running:
                job.end(failed)
            self.running = []
        for job in [*self.running, *self.waiting]:
            job.end(Left())

    def _next(self) -> list[Job]:
        """The first that waits and those right behind it that sample alike."""
        found: list[Job] = []
        while self.waiting and len(found) < self.batch_size:
            if self.waiting[0].cancelled:
                self.waiting.popleft().end(Left())
            elif found and self.waiting[0].sampling != found[0].sampling:
                break
            else:
                found.append(self.waiting.popleft())
        return found

    def _answer(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        if self.model.language_model.memory() is None:
            for job in jobs:
                self._alone(job)
            return
        prompts = Prompts(self.model)
        keys = [prompts.keys(job.sample) for job in jobs]
        decoder = Decoder(self.model.language_model, prompts.features(self.batch_size))
        longest = max(job.reply.limit for job in jobs)
        options = GenerationOptions(longest, jobs[0].sampling.temperature, jobs[0].sampling.top_p)
        draws: list[torch.Generator | None] = [None] * len(jobs)
        if options.temperature > 0:
            draws = [torch.Generator(self.model.device).manual_seed(_seed(job)) for job in jobs]
        going = answer_keys(decoder, keys, options, self.batch_size, draws, lambda n, token: jobs[n].grow(token))
        for number, _ in going:
            jobs[number].end()

    def _alone(self, job: Job) -> None:
        """By the language model's own means, which take one prompt at a time when they tell ids."""
        model = self.model
        batch = collate([job.sample], model.language_model.tokenizer.pad_id, left=True).to(model.device)
        options = GenerationOptions(job.reply.limit, job.sampling.temperature, job.sampling.top_p, stop=job.stop)
        if options.temperature > 0:
            torch.manual_seed(_seed(job))

        def take(token: int) -> None:
            if not job.grow(token):
                raise Left

        try:
            model.language_model.generate(model.embed(batch), batch.segments > 0, options, take)
            job.end()
        except Left as left:
            job.end(left)


def _seed(job: Job) -> int:
    return secrets.randbits(63) if job.seed is None else job.seed
