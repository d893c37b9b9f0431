"""Questions of a benchmark to a loaded model: the one place where evaluation meets generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lensmith.errors import DataError

if TYPE_CHECKING:
    from lensmith.interfaces.language_model import GenerationOptions
    from lensmith.model import MultimodalModel


@dataclass(frozen=True)
class Asked:
    """A question with its pictures as files, or a text whose continuations are compared.

    Args:
        prompt: the words, without placeholders.
        images: picture files.
        choices: continuations to compare; then the conversation is not used.
        fallbacks: shorter prompts for a context that is too short.
        candidates: replies, and the answers in the conversation that are compared for them.
        per_token: compare candidates by the mean over their tokens.
    """

    prompt: str
    images: tuple[Path, ...] = ()
    choices: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()
    candidates: Mapping[str, str] = field(default_factory=dict)
    per_token: bool = False


@dataclass(frozen=True)
class Answered:
    """The reply, and what else is known of it."""

    text: str
    data: dict[str, Any] = field(default_factory=dict)


class Answerer(Protocol):
    """Answers questions in their order."""

    def __call__(self, questions: Sequence[Asked], max_new_tokens: int) -> list[Answered]:
        """Reply to each.

        Raises:
            DataError: a question that cannot be asked.
        """


class ModelAnswerer:
    """Answers of a loaded model.

    Args:
        model: see `lensmith.load`.
        options: how answers are produced; their length comes with each call.
        batch_size: questions that are answered together.
    """

    def __init__(self, model: MultimodalModel, options: GenerationOptions, batch_size: int) -> None:
        self.model, self.options, self.batch_size = model, options, batch_size

    def __call__(self, questions: Sequence[Asked], max_new_tokens: int) -> list[Answered]:
        """See `Answerer`."""
        options = replace(self.options, max_new_tokens=max_new_tokens)
        ranked = [place for place, question in enumerate(questions) if question.candidates]
        written = [place for place, asked in enumerate(questions) if not (asked.choices or asked.candidates)]
        answers: dict[int, Answered] = {}
        if written:
            asked = [(list(questions[place].images), questions[place].prompt) for place in written]
            texts = self.model.generate_batch(asked, options, batch_size=self.batch_size)
            answers |= {place: Answered(text.strip()) for place, text in zip(written, texts, strict=True)}
        if ranked:
            answers |= dict(zip(ranked, rank(self.model, [questions[place] for place in ranked]), strict=True))
        for place, question in enumerate(questions):
            if question.choices:
                answers[place] = choose(self.model, question)
        return [answers[place] for place in range(len(questions))]


def rank(model: MultimodalModel, questions: Sequence[Asked]) -> list[Answered]:
    """The reply whose answer is the likeliest, of equals the first, with all log-likelihoods.

    Args:
        model: the model.
        questions: with candidates.

    Raises:
        DataError: a question that cannot be asked.
    """
    asked = [(list(question.images), question.prompt) for question in questions]
    found = model.score(asked, [list(question.candidates.values()) for question in questions])
    answers = []
    for question, likelihoods in zip(questions, found, strict=True):
        values = [each.mean if question.per_token else each.log for each in likelihoods]
        told = dict(zip(question.candidates, values, strict=True))
        answers.append(Answered(max(told, key=lambda reply: told[reply]), {"logprobs": told}))
    return answers


def choose(model: MultimodalModel, question: Asked) -> Answered:
    """The likeliest continuation of a raw text, of equals the first, with all log-likelihoods.

    The beginning that the tokenised continuations share is computed as one prompt; continuations of one token each
    need a single pass.

    Raises:
        DataError: none of its prompts fits the model's context.
    """
    import torch

    limit = model.language_model.shape.context_length
    prompts = (question.prompt, *question.fallbacks)
    for prompt in prompts:
        rows = [_ids(model, prompt + choice) for choice in question.choices]
        if max(map(len, rows)) <= limit:
            break
    else:
        raise DataError(f"a text with its choices takes more than the model's {limit} positions: {prompt[:60]!r}…")
    shared = 0
    while all(len(row) > shared + 1 for row in rows) and len({row[shared] for row in rows}) == 1:
        shared += 1
    with torch.inference_mode():
        if all(len(row) == shared + 1 for row in rows):
            logs = _log_probabilities(model, rows[0][:shared])[-1]
            values = [float(logs[row[-1]]) for row in rows]
        else:
            values = []
            for row in rows:
                logs = _log_probabilities(model, row[:-1])
                values.append(sum(float(logs[at - 1, row[at]]) for at in range(shared, len(row))))
    best = values.index(max(values))
    told = {choice.strip(): value for choice, value in zip(question.choices, values, strict=True)}
    used = {} if prompt is question.prompt else {"fallback": prompts.index(prompt)}
    return Answered(question.choices[best].strip(), {"logprobs": told, **used})


def _ids(model: MultimodalModel, text: str) -> list[int]:
    tokenizer = model.language_model.tokenizer
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return [*start, *tokenizer.encode(text, after="start").ids]


def _log_probabilities(model: MultimodalModel, ids: Sequence[int]) -> Any:
    """Log-probabilities (T, vocabulary) of what follows each position of one text."""
    import torch

    device = model.device
    row = torch.tensor([ids], device=device)
    positions = torch.arange(len(ids), device=device)[None]
    language_model = model.language_model
    hidden = language_model(language_model.embed(row), positions, torch.ones_like(positions))
    return language_model.head(hidden[0]).float().log_softmax(-1)
