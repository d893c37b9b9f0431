"""Stop texts end an answer to the character, wherever the borders of tokens and of characters are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from lensmith import GenerationOptions
from lensmith.inference.stops import StopTexts, spoken, trim
from lensmith.serving.reply import Reply

EOS = 0


class Pieces:
    """A tokenizer whose ids are pieces of bytes, as byte-level BPE has them; 0 ends an answer."""

    eos_id = EOS

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = [b"", *dict.fromkeys(pieces)]

    def ids(self, pieces: Sequence[bytes]) -> list[int]:
        return [self.pieces.index(piece) for piece in pieces]

    def token_id(self, text: str) -> int | None:
        return EOS if text == "</s>" else None

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", "replace")


def grown(pieces: Sequence[bytes], stops: Sequence[str], limit: int = 1000) -> tuple[str, str, str | None, int]:
    """An answer whole and streamed, why it ended, and after how many ids."""
    tokenizer: Any = Pieces(pieces)
    reply = Reply(tokenizer, stops, limit)
    told, count = [], 0
    for token in [*tokenizer.ids(pieces), EOS]:
        going = reply.add(token)
        count += 1
        told.append(reply.piece())
        if not going:
            break
    assert spoken(reply._ids, GenerationOptions(stop=tuple(stops)), tokenizer) == reply.text
    return reply.text, "".join(told), reply.reason, count


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        ([b"3", b".", b" fish"], ["sh"], "3. fi"),
        ([b"3", b".", b" fis", b"h and"], ["sh"], "3. fi"),
        ([b"3. fish"], ["sh"], "3. fi"),
        ([b"3. fish"], ["3"], ""),
        ([b"3. f", b"i", b"s", b"h"], ["fish"], "3."),
        ([b"3. fis", b"t"], ["sh"], "3. fist"),
        ([b"3. fish"], ["h", "sh", "fish!"], "3. fi"),
        ([b"a", b"##", b"#b"], ["###"], "a"),
        ([b"a", b"b##", b"##"], ["###"], "ab"),
        ([b"one\n", b"\ntwo"], ["\n\n"], "one"),
        ([b"one\n\ntwo"], ["\n\n"], "one"),
        ([b"caf\xc3", b"\xa9 noir"], ["\u00e9"], "caf"),
        ([b"caf\xc3", b"\xa9 noir"], ["noir"], "caf\u00e9"),
        ([b"\xe6\x97", b"\xa5\xe6\x9c", b"\xac\xe8\xaa\x9e"], ["\u672c"], "\u65e5"),
        ([b"ok \xf0\x9f", b"\x98", b"\x80!"], ["\U0001f600"], "ok"),
        ([b"ok \xf0\x9f", b"\x98", b"\x80! stop"], ["stop"], "ok \U0001f600!"),
        ([b"aXbY", b"c"], ["bYc", "Y"], "aXb"),
        ([b"never"], ["</s>", "zz"], "never"),
    ],
)
def test_E11_a_stop_text_ends_an_answer_inside_a_token(pieces: list[bytes], stops: list[str], expected: str) -> None:
    whole, streamed, reason, _ = grown(pieces, stops)
    assert (whole, streamed, reason) == (expected, expected, "stop")


def test_E11_any_text_any_tokens_any_stops() -> None:
    """Against the plain rule: the answer ends when its text first holds a stop text, before the earliest."""
    draw = random.Random(11)
    letters = "ab \n#\u00e9\u65e5\U0001f600"
    for _ in range(1500):
        data = "".join(draw.choice(letters) for _ in range(draw.randrange(1, 14))).encode()
        cuts = sorted({0, len(data), *(draw.randrange(len(data) + 1) for _ in range(draw.randrange(8)))})
        pieces = [data[a:b] for a, b in pairwise(cuts)]
        stops = ["".join(draw.choice(letters) for _ in range(draw.randrange(1, 4))) for _ in range(draw.randrange(3))]
        said, expected, ended = b"", None, 0
        for piece in pieces:
            said += piece
            ended += 1
            text = said.decode("utf-8", "replace")
            if found := [at for stop in stops if (at := text.find(stop)) >= 0]:
                expected = text[: min(found)].strip()
                break
        else:
            expected, ended = said.decode("utf-8", "replace").strip(), ended + 1
        whole, streamed, reason, count = grown(pieces, stops)
        assert (whole, streamed, reason, count) == (expected, expected, "stop", ended), (pieces, stops)


def test_E11_a_beginning_of_a_stop_text_is_told_when_the_length_ends_the_answer() -> None:
    assert grown([b"3. fis", b"h"], ["sh"], limit=1) == ("3. fis", "3. fis", "length", 1)


def test_E11_ids_that_say_nothing_else_are_left_out() -> None:
    tokenizer: Any = Pieces([b"3. ", b"fi", b"sh"])
    stops = StopTexts(["sh"], tokenizer.decode)
    assert trim([1, 2, 3], [EOS], stops) == [1, 2]
    assert trim([1, 2, EOS, 3], [EOS], stops) == [1, 2]
