"""Which prediction answers which question, and what a reader of the score must know of those that do not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lensmith.errors import DataError
from lensmith.evaluation.files import named
from lensmith.interfaces.benchmark import Prediction, SampleScore

_WORD = re.compile(r"[^\W_]+")
_LONGEST = 40
"""Characters of a reply that a note shows."""
_EXAMPLES = 3


def by_question(
    rows: Sequence[Prediction], ids: Iterable[Any], notes: list[str], *, what: str = "answers"
) -> dict[Any, Prediction]:
    """Predictions by the id of the question that they answer.

    A number and the same number as text are one id. Of several predictions for one question the last counts, of those
    whose id has the question's own type before others; a note names the questions. Predictions for other questions are
    left out, and a note names them. Replies that are empty are told.

    Args:
        rows: the predictions.
        ids: those of all questions.
        notes: notes are appended.
        what: what is left out, e.g. `captions`.

    Raises:
        DataError: none of the predictions is for a question of the data, or two questions have one id.
    """
    own = questions_by_text(ids)
    found: dict[Any, Prediction] = {}
    twice: dict[Any, int] = {}
    foreign: list[Any] = []
    for row in rows:
        text = str(row.question_id)
        if text not in own:
            foreign.append(row.question_id)
            continue
        identity = own[text]
        before = found.get(identity)
        if before is not None:
            twice[identity] = twice.get(identity, 0) + 1
            exact = type(before.question_id) is type(identity)
            if exact and type(row.question_id) is not type(identity):
                continue
        found[identity] = row
    if not found and own:
        raise DataError(
            f"no prediction is for a question of the data: the predictions' ids are such as"
            f" {named([row.question_id for row in rows], 3) or 'none'}, the questions' such as {named(list(own), 3)}"
        )
    if twice:
        notes.append(
            f"{sum(twice.values())} predictions were replaced by later ones for the same question: {named(list(twice))}"
        )
    if foreign:
        notes.append(f"{len(foreign)} {what} to other questions, left out: {named(foreign)}")
    tell_empty(found, notes)
    return found


def questions_by_text(ids: Iterable[Any]) -> dict[str, Any]:
    """Ids of questions by their text.

    Raises:
        DataError: two questions have one id.
    """
    own: dict[str, Any] = {}
    for identity in ids:
        if str(identity) in own:
            raise DataError(f"two questions have the id {identity!r:.60}; a number and its text are one id")
        own[str(identity)] = identity
    return own


def tell_empty(rows: Mapping[Any, Prediction] | Sequence[Prediction], notes: list[str]) -> None:
    """Note which replies hold nothing."""
    pairs = rows.items() if isinstance(rows, Mapping) else [(row.question_id, row) for row in rows]
    if empty := [identity for identity, row in pairs if not row.text.strip()]:
        notes.append(f"{len(empty)} replies are empty: {named(empty)}")


def tell_near(samples: Iterable[SampleScore], notes: list[str]) -> None:
    """Note wrong replies that hold the right answer among other words, where only the answer itself counts."""
    near = [each for each in samples if each.score == 0 and _within(each.reference, each.prediction)]
    if near:
        shown = f"{_shown(near[0].prediction)} for {_shown(near[0].reference)}"
        ids = named([each.question_id for each in near])
        notes.append(f"{len(near)} wrong replies hold the right answer among other words: {ids}, e.g. {shown}")


def _within(reference: str, reply: str) -> bool:
    words = " ".join(_WORD.findall(reference.lower()))
    return bool(words) and f" {words} " in f" {' '.join(_WORD.findall(reply.lower()))} "


@dataclass(frozen=True)
class Reading:
    """What the paper's rule and a lenient one make of a reply; empty where they find nothing.

    Args:
        question_id: of the question.
        reply: as it came.
        paper: by the paper's rule.
        lenient: by one that looks for what is meant.
    """

    question_id: Any
    reply: str
    paper: str
    lenient: str


def tell_readings(readings: Iterable[Reading], notes: list[str], *, what: str, fate: str, lenient: bool) -> None:
    """Note the replies in which nothing could be read, and those that a reader would take otherwise.

    Args:
        readings: of all replies.
        notes: notes are appended.
        what: what is looked for, e.g. `an option`.
        fate: what becomes of a reply that the paper's rule cannot read, e.g. `wrong`.
        lenient: whether the lenient readings are scored, so that only those that find nothing are told.
    """
    found = list(readings)
    unread = [each for each in found if not each.lenient and each.reply.strip()]
    if unread:
        why = "wrong" if lenient else fate
        shown = f", e.g. {_shown(unread[0].reply)}"
        notes.append(f"{len(unread)} replies do not say {what}, {why}: {named([e.question_id for e in unread])}{shown}")
    other = [] if lenient else [each for each in found if each.lenient and each.lenient != each.paper]
    if other:
        examples = "; ".join(
            f"{_shown(each.reply)} (question {each.question_id}) is {each.paper or 'nothing'} by the paper's rule and"
            f" {each.lenient} to a reader"
            for each in other[:_EXAMPLES]
        )
        notes.append(
            f"{len(other)} replies are not read as they are meant: {examples}; the paper's rule counts"
            " (`-o reading=lenient` takes the other)"
        )


def refuse_full_marks(missing: Sequence[Any], score: float, full: float, rule: str) -> None:
    """Refuse full marks of a rule that does not count the questions without an answer.

    Raises:
        DataError: there are such questions, and the score is full marks.
    """
    if missing and score >= full:
        raise DataError(
            f"{len(missing)} questions have no answer: {named(missing)}; {rule}, so that the score would be full marks"
        )


def _shown(reply: str) -> str:
    text = " ".join(reply.split())
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")
