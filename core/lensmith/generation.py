"""Answers: questions to left-padded prompts, prompts to text."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from lensmith.data.batch import collate
from lensmith.data.encode import encode
from lensmith.data.pictures import open_picture
from lensmith.data.rows import user_turn
from lensmith.data.sample import Sample, expand, instructions
from lensmith.errors import DataError
from lensmith.interfaces.language_model import GenerationOptions
from lensmith.interfaces.text import ConversationError

if TYPE_CHECKING:
    from lensmith.model import MultimodalModel

Pictures = Any


@dataclass(frozen=True)
class Question:
    """Pictures and words."""

    images: tuple[Image.Image | Path, ...]
    prompt: str

    @classmethod
    def of(cls, images: Pictures, prompt: str) -> Question:
        """From what a user passes: nothing, one picture or several, opened or as paths."""
        if images is None:
            images = ()
        elif isinstance(images, (str, Path, Image.Image)):
            images = (images,)
        return cls(tuple(Path(i) if isinstance(i, str) else i for i in images), prompt)


def prepare(model: MultimodalModel, question: Question) -> Sample:
    """Lay out one open prompt.

    Raises:
        DataError: an unreadable picture, misplaced `<image>`, a question that the conversation cannot express, or a
            prompt longer than the model's context.
    """
    turn = user_turn(question.prompt, len(question.images))
    tokenizer = model.language_model.tokenizer
    try:
        encoded = encode(model.conversation.render([turn], reply=True), tokenizer)
    except ConversationError as error:
        raise DataError(str(error)) from error
    opened = [
        model.pictures.prepare(
            open_picture(image, model.pictures.policy) if isinstance(image, Path) else image.convert("RGB"), words
        )
        for image, words in zip(question.images, instructions([turn]), strict=True)
    ]
    sample = expand("prompt", encoded, opened, tokenizer.pad_id)
    limit = model.language_model.shape.context_length
    if len(sample.ids) >= limit:
        raise DataError(f"the prompt takes {len(sample.ids)} positions, the language model has {limit}")
    return sample


@torch.inference_mode()
def answer(
    model: MultimodalModel, questions: Sequence[Question], options: GenerationOptions, batch_size: int = 8
) -> list[str]:
    """Answers in the order of the questions; questions of like length share a batch."""
    model.eval()
    samples = [prepare(model, question) for question in questions]
    order = sorted(range(len(samples)), key=lambda i: len(samples[i].ids))
    answers = [""] * len(samples)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        for index, text in zip(chosen, _continue(model, [samples[i] for i in chosen], options), strict=True):
            answers[index] = text
    return answers


def stream(model: MultimodalModel, question: Question, options: GenerationOptions) -> Iterator[str]:
    """Pieces of one answer as they are produced; together they are what `answer` gives.

    A piece never ends inside a character.
    """
    model.eval()
    sample = prepare(model, question)
    ids: queue.Queue[int | BaseException | None] = queue.Queue()

    def run() -> None:
        try:
            with torch.inference_mode():
                _continue(model, [sample], options, ids.put)
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
        text = model.language_model.tokenizer.decode(known).strip()
        if len(text) > len(shown) and not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
    thread.join()
    text = model.language_model.tokenizer.decode(known).strip()
    if len(text) > len(shown):
        yield text[len(shown) :]


def _continue(
    model: MultimodalModel, samples: Sequence[Sample], options: GenerationOptions, on_token: Any = None
) -> list[str]:
    tokenizer = model.language_model.tokenizer
    batch = collate(samples, tokenizer.pad_id, left=True).to(model.device)
    stop = tuple(dict.fromkeys((*options.stop, *model.conversation.stop_strings())))
    room = model.language_model.shape.context_length - batch.ids.shape[1]
    limited = GenerationOptions(
        max_new_tokens=max(1, min(options.max_new_tokens, room)),
        temperature=options.temperature,
        top_p=options.top_p,
        beams=options.beams,
        stop=stop,
    )
    rows = model.language_model.generate(model.embed(batch), batch.segments > 0, limited, on_token)
    return [tokenizer.decode(row).strip() for row in rows]
