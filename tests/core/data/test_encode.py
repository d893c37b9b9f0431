"""Segments to ids and labels. Those of the original LLaVA code are compared in tests/parity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest

from lensmith import ConversationError, Pieces, Segment, Tokenizer
from lensmith.data.encode import encode


class WordTokenizer(Tokenizer):
    """One id a character, and what stands before each stretch."""

    bos_id: int | None = 1
    eos_id = 2
    eos_token = "</s>"
    pad_id = 0

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def encode(self, text: str, *, after: Literal["start", "image", "token"]) -> Pieces:
        self.asked.append((text, after))
        # A leading id without characters, as SentencePiece has it.
        return Pieces((9, *map(ord, text)), ((0, 0), *((i, i + 1) for i in range(len(text)))))

    def token_id(self, token: str) -> int | None:
        return {"<|im_start|>": 7}.get(token)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def test_neighbouring_text_is_tokenised_once() -> None:
    tokenizer = WordTokenizer()
    encode(
        [
            Segment("a "),
            Segment(""),
            Segment("b", supervised=True),
            Segment(kind="image"),
            Segment("c"),
            Segment(kind="eos"),
            Segment("d"),
            Segment("<|im_start|>", kind="token"),
            Segment("e"),
        ],
        tokenizer,
    )
    assert tokenizer.asked == [("a b", "start"), ("c", "image"), ("d", "token"), ("e", "token")]


def test_ids_without_characters_go_with_the_text_they_introduce() -> None:
    tokenizer = WordTokenizer()
    learnt = encode([Segment(kind="image"), Segment("x", supervised=True), Segment("y")], tokenizer)
    assert learnt.ids == [1, -200, 9, ord("x"), ord("y")]
    assert learnt.supervised == [(2, 4)]
    asked = encode([Segment("x"), Segment("y", supervised=True)], tokenizer)
    assert asked.supervised == [(3, 4)]


def test_an_id_across_the_border_is_learnt() -> None:
    class Pairs(WordTokenizer):
        def encode(self, text: str, *, after: Literal["start", "image", "token"]) -> Pieces:
            pairs = range(0, len(text), 2)
            return Pieces(tuple(pairs), tuple((i, min(i + 2, len(text))) for i in pairs))

    encoded = encode([Segment("abc"), Segment("de", supervised=True), Segment("fg")], Pairs())
    assert encoded.supervised == [(2, 4)]  # "cd" and "ef", after BOS and "ab"


def test_bos_only_where_the_model_wants_it() -> None:
    tokenizer = WordTokenizer()
    tokenizer.bos_id = None
    encoded = encode([Segment(kind="eos", supervised=True)], tokenizer)
    assert (encoded.ids, encoded.supervised, encoded.prompt) == ([2], [(0, 1)], "</s>")


def test_a_template_that_writes_the_beginning_itself_gets_no_bos() -> None:
    tokenizer = WordTokenizer()
    encoded = encode([Segment(kind="start"), Segment("<|im_start|>", kind="token"), Segment("a", True)], tokenizer)
    assert encoded.ids == [7, 9, ord("a")]
    assert encoded.supervised == [(1, 3)]
    assert tokenizer.asked == [("a", "token")]
    bare = WordTokenizer()
    assert encode([Segment(kind="start"), Segment("a")], bare).ids == [9, ord("a")]
    assert bare.asked == [("a", "start")]


def test_a_tokenizer_without_a_chat_template_says_so() -> None:
    tokenizer = WordTokenizer()
    with pytest.raises(ConversationError, match=r"has no chat template; set `model\.conversation`"):
        tokenizer.chat([{"role": "user", "content": "x"}], reply=True)
    assert tokenizer.split_special("a<b>") == [("a<b>", None)]


def test_unknown_special_token_is_named_with_a_cure() -> None:
    with pytest.raises(ConversationError, match=r"'<\|im_end\|>'.*model\.conversation"):
        encode([Segment("<|im_end|>", kind="token")], WordTokenizer())
