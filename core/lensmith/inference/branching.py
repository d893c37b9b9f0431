"""The walk over a batch of groups: beginnings once, then rows of what branches from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lensmith.inference.decoder import Begun, Decoder
from lensmith.inference.forest import Tree, batches, grouped, parts, rows_of


@dataclass
class Branched:
    """Rows that run together.

    Args:
        members: by row the numbers of its sequences.
        shared: by row the positions before its tree.
        trees: by row what comes after them.
        begun: all of it decoded.
    """

    members: list[list[int]]
    shared: list[int]
    trees: list[Tree]
    begun: Begun


def branched(
    decoder: Decoder, sequences: Sequence[Sequence[int]], limits: Sequence[int], batch_size: int, branches: int
) -> Iterator[Branched]:
    """Decode sequences, what they share once.

    Args:
        decoder: with the sequences' pictures.
        sequences: keys of each.
        limits: see `grouped`.
        batch_size: sequences that run together.
        branches: how many may share a row.
    """
    for batch in batches(grouped(sequences, limits), batch_size):
        beginnings: Begun | None = None
        if batch[0].shared:
            firsts = [sequences[group.members[0]][: group.shared] for group in batch]
            beginnings = decoder.begin([Tree.of([first]) for first in firsts])
        running = list(parts(batch, batch_size))
        for part in running:
            owners: list[int] = []
            members: list[list[int]] = []
            for place, numbers in part:
                for row in rows_of([sequences[number] for number in numbers], batch[place].shared, branches):
                    owners.append(place)
                    members.append([numbers[within] for within in row])
            shared = [batch[owner].shared for owner in owners]
            trees = [
                Tree.of([sequences[number][length:] for number in row])
                for length, row in zip(shared, members, strict=True)
            ]
            behind = beginnings.rows(owners, last=part is running[-1]) if beginnings else None
            yield Branched(members, shared, trees, decoder.begin(trees, behind))
