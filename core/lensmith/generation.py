"""Questions to answers and scores, many at once: what they have in common is computed once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from lensmith.data.batch import collate
from lensmith.data.sample import Sample
from lensmith.errors import DataError
from lensmith.inference.answering import answer_keys, limited
from lensmith.inference.decoder import Decoder
from lensmith.inference.prompts import Prompts, Question
from lensmith.inference.scoring import Likelihood, likelihoods
from lensmith.inference.stops import split_stops, spoken
from lensmith.interfaces.language_model import GenerationOptions

if TYPE_CHECKING:
    from lensmith.model import MultimodalModel

__all__ = ["Likelihood", "Question", "answer", "answers", "prepare", "score", "stream"]

_WINDOW = 64
"""Questions that are laid out at the same time, or four batches of them."""


def prepare(model: MultimodalModel, question: Question) -> Sample:
    """Lay out one open prompt; see `Prompts.sample`."""
    return Prompts(model).sample(question)


def answer(
    model: MultimodalModel,
    questions: Sequence[Question],
    options: GenerationOptions,
    batch_size: int = 8,
    seeds: Sequence[int] | None = None,
) -> list[str]:
    """Answers in the order of the questions; see `answers`.

    Raises:
        DataError: of the first question that cannot be asked.
    """
    found = [""] * len(questions)
    for number, said in answers(model, questions, options, batch_size, seeds):
        if isinstance(said, DataError):
            raise said
        found[number] = said
    return found


def answers(
    model: MultimodalModel,
    questions: Sequence[Question],
    options: GenerationOptions,
    batch_size: int = 8,
    seeds: Sequence[int] | None = None,
) -> Iterator[tuple[int, str | DataError]]:
    """Each question's number and its answer, or why it cannot be asked; in the order in which they are ready.

    Questions about the same pictures are answered together: a picture is encoded once, and the beginning that prompts
    share is decoded once. Greedy answers are those of one question at a time, but for rounding.

    Args:
        model: the model; it is left in evaluation mode.
        questions: what is asked.
        options: how.
        batch_size: answers that grow at the same time.
        seeds: for each question that of its sampling, which then does not depend on the others; None draws from
            torch's own source.
    """
    model.eval()
    options = limited(options, model.conversation.stop_strings())
    window = max(_WINDOW, 4 * batch_size)
    together = _together(questions)
    for start in range(0, len(together), window):
        chosen = together[start : start + window]
        prompts = Prompts(model)
        laid_out: list[tuple[int, Sample]] = []
        for number in chosen:
            try:
                laid_out.append((number, prompts.sample(questions[number])))
            except DataError as error:
                yield number, error
        if laid_out:
            yield from _answered(model, prompts, laid_out, options, batch_size, seeds)


def stream(model: MultimodalModel, question: Question, options: GenerationOptions) -> Iterator[str]:
    """Pieces of one answer as they are produced; together they are what `answer` gives.

    A piece never ends inside a character.
    """
    model.eval()
    options = limited(options, model.conversation.stop_strings())
    tokenizer = model.language_model.tokenizer
    _, stops = split_stops(options, tokenizer)
    sample = prepare(model, question)
    ids: queue.Queue[int | BaseException | None] = queue.Queue()

    def run() -> None:
        try:
            with torch.inference_mode():
                _generate(model, [sample], options, ids.put)
            ids.put(None)
        except BaseException as error:  # handed to the reader, who raises it
            ids.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    known: list[int] = []
    shown = ""
    while (item := ids.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        known.append(item)
        text = stops.safe(tokenizer.decode(known)).strip()
        if len(text) > len(shown) and not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
    thread.join()
    text = spoken(known, options, tokenizer)
    if len(text) > len(shown):
        yield text[len(shown) :]


@torch.inference_mode()
def score(
    model: MultimodalModel, questions: Sequence[Question], candidates: Sequence[Sequence[str]], batch_size: int = 64
) -> list[list[Likelihood]]:
    """How likely each candidate is as the whole answer to its question, exactly as training counts it.

    Candidates of a question share its prompt, and questions about the same pictures share those.

    Args:
        model: the model; it is left in evaluation mode.
        questions: what is asked.
        candidates: for each question the answers to score.
        batch_size: answers that are scored together.

    Raises:
        DataError: a question that cannot be asked, or a candidate with nothing in it to predict.
    """
    model.eval()
    found: list[list[Likelihood]] = [[Likelihood(0.0, 1)] * len(answers) for answers in candidates]
    together = _together(questions)
    for start in range(0, len(together), batch_size):
        prompts = Prompts(model)
        places: list[tuple[int, int]] = []
        samples: list[Sample] = []
        for number in together[start : start + batch_size]:
            for place, text in enumerate(candidates[number]):
                sample = prompts.sample(questions[number], text)
                if all(target < 0 for target in sample.targets):
                    raise DataError(f"candidate {text!r} has nothing to score; give an answer with words in it")
                places.append((number, place))
                samples.append(sample)
        if model.language_model.memory() is None:
            scores = [_alone(model, sample) for sample in samples]
        else:
            keys = [prompts.keys(sample) for sample in samples]
            decoder = Decoder(model.language_model, prompts.features(batch_size))
            scores = likelihoods(decoder, keys, [sample.targets for sample in samples], batch_size)
        for (number, place), likelihood in zip(places, scores, strict=True):
            found[number][place] = likelihood
    return found


def _together(questions: Sequence[Question]) -> list[int]:
    """Their numbers, those about the same pictures next to each other."""
    places: dict[tuple[object, ...], list[int]] = {}
    for number, question in enumerate(questions):
        places.setdefault(question.shown, []).append(number)
    return [number for numbers in places.values() for number in numbers]


@torch.inference_mode()
def _answered(
    model: MultimodalModel,
    prompts: Prompts,
    laid_out: Sequence[tuple[int, Sample]],
    options: GenerationOptions,
    batch_size: int,
    seeds: Sequence[int] | None,
) -> Iterator[tuple[int, str]]:
    tokenizer = model.language_model.tokenizer
    if options.beams > 1 or model.language_model.memory() is None:
        ordered = sorted(laid_out, key=lambda entry: len(entry[1].ids))  # of like length together
        # A seed is a row's own, so rows that sample by one run alone.
        size = 1 if seeds is not None and options.temperature > 0 else batch_size
        for start in range(0, len(ordered), size):
            batch = ordered[start : start + size]
            if seeds is not None:
                torch.manual_seed(seeds[batch[0][0]])
            said = _generate(model, [sample for _, sample in batch], options)
            yield from zip((number for number, _ in batch), said, strict=True)
        return
    draws: list[torch.Generator | None] = [None] * len(laid_out)
    if seeds is not None and options.temperature > 0:
        draws = [torch.Generator(model.device).manual_seed(seeds[number]) for number, _ in laid_out]
    keys = [prompts.keys(sample) for _, sample in laid_out]
    decoder = Decoder(model.language_model, prompts.features(batch_size))
    for place, ids in answer_keys(decoder, keys, options, batch_size, draws):
        yield laid_out[place][0], spoken(ids, options, tokenizer)


def _generate(
    model: MultimodalModel, samples: Sequence[Sample], options: GenerationOptions, on_token: Any = None
) -> list[str]:
    """Answers by the language model's own means: padded on the left, nothing shared."""
    tokenizer = model.language_model.tokenizer
    batch = collate(samples, tokenizer.pad_id, left=True).to(model.device)
    room = model.language_model.shape.context_length - batch.ids.shape[1]
    fitting = replace(options, max_new_tokens=max(1, min(options.max_new_tokens, room)))
    rows = model.language_model.generate(model.embed(batch), batch.segments > 0, fitting, on_token)
    return [spoken(row, options, tokenizer) for row in rows]


def _alone(model: MultimodalModel, sample: Sample) -> Likelihood:
    batch = collate([sample], model.language_model.tokenizer.pad_id).to(model.device)
    return Likelihood(-float(model(batch)), batch.target_count)
