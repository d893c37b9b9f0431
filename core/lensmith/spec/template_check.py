"""Conversations and embeddings against what a tokenizer's files declare, before anything is loaded. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lensmith import parts
from lensmith.errors import LensmithError, Problem
from lensmith.interfaces.text import ConversationError, DeclaredTokenizer, Segment, Turn
from lensmith.spec.run import RunSpec, StageSpec
from lensmith_registry import RegistryError

if TYPE_CHECKING:
    from lensmith.interfaces.text import Conversation

_TALKS = (
    (Turn("user", (None, "\nWhat colour is it?")), Turn("assistant", ("It is red.",))),
    (Turn("user", ("Say one.",)), Turn("assistant", ("One.",)), Turn("user", ("Two?",)), Turn("assistant", ("Two.",))),
)


def template_problems(spec: RunSpec, rows: int | None) -> list[Problem]:
    """What is wrong with the templates of a model and its stages, and with ids that the embeddings do not have.

    Args:
        spec: the spec.
        rows: of the embeddings; None where that is not known.
    """
    try:
        tokenizer = spec.model.language_model.declared_tokenizer()
    except (OSError, ValueError, LensmithError) as error:
        return [Problem("model.language_model.tokenizer", parts.in_one_line(error))]
    if tokenizer is None:
        return []
    problems = [Problem("model.language_model", told) for told in _too_few_rows(tokenizer, rows)]
    seen = []
    for path, stage in (("model", None), *((f"stages.{name}", stage) for name, stage in spec.stages.items())):
        chosen = spec.conversation_for(stage)
        if chosen in seen:
            continue
        seen.append(chosen)
        problems += [Problem(f"{path}.conversation", told) for told in _problems(spec, stage, tokenizer, rows)]
    return problems


def _too_few_rows(tokenizer: DeclaredTokenizer, rows: int | None) -> Iterator[str]:
    if rows is not None and tokenizer.text_ids > rows:
        yield (
            f"the tokenizer makes ids up to {tokenizer.text_ids - 1} and the language model has {rows} embeddings (ids"
            f" 0 to {rows - 1}); set `model.language_model.tokenizer` to the tokenizer that the model was trained with"
        )


def _problems(spec: RunSpec, stage: StageSpec | None, tokenizer: DeclaredTokenizer, rows: int | None) -> Iterator[str]:
    try:
        conversation = parts.conversation(spec.model, stage)
    except (LensmithError, RegistryError):
        return  # told where the part is looked up
    found = conversation.problems(tokenizer)
    yield from found
    if not found:
        yield from _unknown_ids(conversation.bind(tokenizer), tokenizer, rows)


def _unknown_ids(conversation: Conversation, tokenizer: DeclaredTokenizer, rows: int | None) -> Iterator[str]:
    """Special tokens that the template writes and that have no id, or no row of the embeddings."""
    written: dict[str, int | None] = {}
    for talk in _TALKS:
        for turns, reply in ((talk, False), (talk[:-1], True)):
            try:
                segments = conversation.render(turns, reply=reply)
            except (ConversationError, NotImplementedError):
                continue
            written |= {token: tokenizer.token_id(token) for token in _tokens(segments, tokenizer)}
    for token, index in written.items():
        if index is None:
            yield (
                f"it writes the special token {token!r}, which the language model's tokenizer does not have; add it"
                f" (`model.language_model.add_tokens: [{token!r}]`), or choose a template that the model knows"
            )
        elif rows is not None and index >= rows:
            yield (
                f"it writes the special token {token!r}, whose id is {index}, and the language model has {rows}"
                f" embeddings (ids 0 to {rows - 1}); choose a template whose tokens the model knows, or set"
                " `model.language_model.tokenizer` to the tokenizer that the model was trained with"
            )


def _tokens(segments: list[Segment], tokenizer: DeclaredTokenizer) -> Iterator[str]:
    for segment in segments:
        if segment.kind == "token":
            yield segment.text
        elif segment.kind == "eos" and tokenizer.eos_token:
            yield tokenizer.eos_token
