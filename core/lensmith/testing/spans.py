"""Check `spans`: of a conversation the answers are learnt with what ends them, and not a token more."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lensmith.data.encode import encode
from lensmith.interfaces.text import Conversation, ConversationError, Segment, Tokenizer, Turn
from lensmith.spec.build import part_class
from lensmith.testing.findings import NotApplicable, expect, some
from lensmith.testing.kit import Kit
from lensmith.testing.subjects import SEED, Subject, promised
from lensmith.testing.tokenizer import FastTokenizer
from lensmith_registry import Kind, RegistryError

_ASKED = ("which", "coloured", "boats", "lie", "there", "können", "you", "count", "12", "again?")
_SAID = ("Red", "vessels,", "quatre", "près", "du", "quay.", "7", "ropes", "hang", "loose!")
_PICTURE = "<|lensmith picture|>"


def dialogues() -> list[list[Turn]]:
    """Conversations of one to three rounds with none to two pictures; no word is both asked and said."""
    chance = random.Random(SEED)
    found = []
    for number in range(9):
        turns: list[Turn] = []
        for turn in range(1 + number % 3):
            question = " ".join(chance.sample(_ASKED, chance.randint(2, 6)))
            pictures = (None,) * ((number // 3) if turn == 0 else 0)
            turns.append(Turn("user", (*pictures, "\n" + question if pictures else question)))
            turns.append(Turn("assistant", (" ".join(chance.sample(_SAID, chance.randint(1, 6))),)))
        found.append(turns)
    return found


def rendered(template: Conversation, turns: Sequence[Turn]) -> list[Segment] | None:
    """The segments; None where the template says that it cannot express these turns."""
    try:
        return template.render(turns)
    except ConversationError:
        return None


def for_conversation(subject: Subject) -> tuple[Conversation, FastTokenizer]:
    """The template, bound to a tokenizer that knows the special tokens that it writes."""
    tokenizer = FastTokenizer()
    template = subject.implementation(subject.spec).bind(tokenizer)
    written = {
        segment.text for turns in dialogues() for segment in rendered(template, turns) or () if segment.kind == "token"
    }
    if unknown := sorted(written - set(tokenizer.specials)):
        tokenizer = FastTokenizer(unknown)
        template = subject.implementation(subject.spec).bind(tokenizer)
    return template, tokenizer


def conversation(subject: Subject, kit: Kit) -> None:
    """Characters and tokens of what is learnt, for random conversations."""
    with promised("A conversation is made of its spec and binds to any tokenizer."):
        template, tokenizer = for_conversation(subject)
    count = 0
    for turns in dialogues():
        with promised("render gives segments, or says in a ConversationError what it cannot express."):
            segments = rendered(template, turns)
        if segments is None:
            continue
        count += 1
        runs = answers(template, tokenizer, turns, segments)
        _tokens(tokenizer, segments, runs)
        with promised("A conversation that ends with the user's turn can be left open for a reply."):
            template.render(turns[:-1], reply=True)
    promise = "A conversation expresses some of the usual rows: questions and answers, with or without pictures."
    expect(count > 0, promise, f"It refused all of {len(dialogues())}.")


def language_model(subject: Subject, kit: Kit) -> None:
    """The model's tokenizer spells what it is given, and its default conversation ends answers with it."""
    with promised("A language model's tokenizer is there without its weights."):
        tokenizer: Tokenizer = subject.implementation.load_tokenizer(subject.spec)
    for word in (*_ASKED, *_SAID, "a line\nand another, with  two spaces"):
        pieces = tokenizer.encode(word, after="token")
        inside = all(0 <= start <= end <= len(word) for start, end in pieces.offsets)
        ordered = sorted(pieces.offsets) == list(pieces.offsets)
        expect(
            inside and ordered and len(pieces.ids) == len(pieces.offsets),
            "Every id of a text has the characters that it covers, in order.",
            f"{word!r} of {len(word)} characters has the ranges {pieces.offsets}.",
        )
        expect(
            tokenizer.decode(pieces.ids).strip() == word.strip(),
            "A text's ids spell the text.",
            f"{word!r} came back as {tokenizer.decode(pieces.ids)!r}.",
        )
    name = subject.spec.default_conversation()
    promise = "The default conversation of a language model is installed."
    with promised(promise):
        try:
            component = kit.registry.get(Kind.CONVERSATION, name)
        except RegistryError as error:
            raise LookupError(str(error)) from error
        template = component.load()(part_class(Kind.CONVERSATION, name, kit.registry)()).bind(tokenizer)
    count = 0
    for turns in dialogues():
        segments = rendered(template, turns)
        if segments is None:
            continue
        count += 1
        runs = answers(template, tokenizer, turns, segments)
        with promised(f"Its default conversation {name!r} writes special tokens that its tokenizer has."):
            encoded = encode(segments, tokenizer)
        expect(
            len(encoded.supervised) == len(runs),
            "Each answer is one span of ids.",
            f"{len(runs)} answers became {len(encoded.supervised)} spans.",
        )
        for run, (start, end) in zip(runs, encoded.supervised, strict=True):
            spelled = tokenizer.decode(encoded.ids[start:end])
            expect(
                run.answer in spelled,
                "The ids of what is learnt spell the answer.",
                f"{run.answer!r} became {spelled!r}.",
            )
    if not count:
        raise NotApplicable(f"its default conversation {name!r} refuses all of {len(dialogues())} dialogues")


@dataclass(frozen=True)
class Run:
    """A stretch that is learnt: its characters in the whole text, and the answer in it."""

    start: int
    end: int
    answer: str


def answers(
    template: Conversation, tokenizer: Tokenizer, turns: Sequence[Turn], segments: Sequence[Segment]
) -> list[Run]:
    """Check what is learnt by its characters.

    Returns:
        One stretch an answer.
    """
    odd = [repr(s) for s in segments if not isinstance(s, Segment)]
    expect(not odd, "render gives a list of Segment.", f"It gave {some(odd)}.")
    shown, pictures = sum(turn.images for turn in turns), sum(s.kind == "image" for s in segments)
    expect(shown == pictures, "Each picture of the turns is one image segment.", f"{shown} became {pictures}.")
    whole, learnt = _written(segments, tokenizer)
    stretches = [run for run in _stretches(learnt) if whole[slice(*run)].strip()]
    said = [turn.text for turn in turns if turn.role == "assistant"]
    texts = [whole[slice(*run)] for run in stretches]
    expect(
        len(stretches) == len(said),
        "Each answer is supervised, in one stretch of segments, and nothing between answers is.",
        f"{len(said)} answers gave {len(stretches)} supervised stretches: {texts}.",
    )
    ends = (tokenizer.eos_token, *template.stop_strings())
    for text, answer in zip(texts, said, strict=True):
        before, found, after = text.partition(answer)
        expect(bool(found), "The whole answer is supervised.", f"Of {answer!r} there is {text!r}.")
        expect(
            not before.strip(),
            "Nothing before an answer is supervised, such as a role's name or the question.",
            f"Before {answer!r} stands {before!r}.",
        )
        end = next((end for end in ends if end and (after.startswith(end) or after.lstrip().startswith(end))), None)
        expect(
            end is not None,
            "What ends an answer, the end token or a stop string, is supervised with it: else no answer would end.",
            f"After {answer!r} stands {after!r}; the ends are {ends}.",
        )
        rest = after.partition(end or "")[2]
        expect(
            not rest.strip(),
            "Nothing after the end of an answer is supervised.",
            f"After {answer!r} and its end {end!r} stands {rest!r}.",
        )
    return [Run(*run, answer) for run, answer in zip(stretches, said, strict=True)]


def _written(segments: Sequence[Segment], tokenizer: Tokenizer) -> tuple[str, list[bool]]:
    """All segments as one text, special tokens spelled out, and whether each character is learnt."""
    whole, learnt = "", []
    for segment in segments:
        text = {"eos": tokenizer.eos_token, "image": _PICTURE, "start": ""}.get(segment.kind, segment.text)
        whole += text
        learnt += [segment.supervised and segment.kind != "image"] * len(text)
    return whole, learnt


def _stretches(learnt: Sequence[bool]) -> list[tuple[int, int]]:
    edges = [place for place in range(len(learnt) + 1) if [False, *learnt, False][place] != [*learnt, False][place]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _tokens(tokenizer: FastTokenizer, segments: Sequence[Segment], runs: Sequence[Run]) -> None:
    """The ids of what is learnt are those of the whole text, tokenised at once, that lie on its characters."""
    whole, _ = _written(segments, tokenizer)
    reference = _with_picture(tokenizer).encode(whole, add_special_tokens=False)
    expected = [
        [
            number
            for number, (a, b) in zip(reference.ids, reference.offsets, strict=True)
            if a < run.end and b > run.start
        ]
        for run in runs
    ]
    encoded = encode(segments, tokenizer)
    found = [encoded.ids[start:end] for start, end in encoded.supervised]
    expect(
        found == expected,
        "What is learnt is the tokens on the supervised characters of the whole text.",
        f"Of {whole!r} these ids are learnt: {found}; a tokenizer puts {expected} there.",
    )


def _with_picture(tokenizer: FastTokenizer) -> Any:
    backend = tokenizer.fast.backend_tokenizer
    backend.add_special_tokens([_PICTURE])
    return backend
