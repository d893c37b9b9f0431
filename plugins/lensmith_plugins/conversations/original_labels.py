"""The labels of the original LLaVA code for templates with `###`, mistakes and all.

It tokenises the header and each message alone and adds up their lengths. Each of them has a BOS of its own there, so
the borders drift to the right by one position a message; and of a question the first two ids stay labelled.
"""

from __future__ import annotations

from collections.abc import Sequence

from lensmith import Segment, Tokenizer
from lensmith.data.encode import encode
from lensmith_plugins.conversations.script import Script


def relabel(
    header: Sequence[Segment],
    blocks: Sequence[tuple[str, Sequence[Segment]]],
    tail: Sequence[Segment],
    tokenizer: Tokenizer,
) -> list[Segment]:
    """The segments of a whole conversation, learnt where the original learns.

    A border that falls within a character that takes several ids is moved to the end of that character.

    Args:
        header: what stands before the first message.
        blocks: role and segments of each message.
        tail: what stands behind the last message.
        tokenizer: whose ids are counted.
    """
    whole = _joined([*header, *(segment for _, block in blocks for segment in block), *tail])
    learnt = [True] * len(encode(whole, tokenizer).ids)
    place = len(encode(header, tokenizer).ids)
    learnt[:place] = [False] * place
    for role, block in blocks:
        length = len(encode(block, tokenizer).ids)
        if role == "user":
            learnt[place + 2 : place + length] = [False] * len(learnt[place + 2 : place + length])
        place += length
    return _by_ids(whole, learnt, tokenizer)


def _joined(segments: Sequence[Segment]) -> list[Segment]:
    script = Script()
    for segment in segments:
        if segment.kind == "text":
            script.text(segment.text)
        else:
            script.segments.append(segment)
    return script.segments


def _by_ids(segments: Sequence[Segment], learnt: Sequence[bool], tokenizer: Tokenizer) -> list[Segment]:
    """The same segments, cut where `learnt` (one an id, BOS included) changes."""
    script = Script()
    place = 0 if tokenizer.bos_id is None else 1
    after: str = "start"
    for segment in segments:
        if segment.kind != "text":
            script.segments.append(Segment(segment.text, learnt[place], segment.kind))
            after = "image" if segment.kind == "image" else "token"
            place += 1
            continue
        pieces = tokenizer.encode(segment.text, after=after)  # type: ignore[arg-type]
        done = 0
        for start, end in pieces.offsets:
            if end > done:
                script.text(segment.text[max(start, done) : end], supervised=learnt[place])
                done = end
            place += 1
    return script.segments
