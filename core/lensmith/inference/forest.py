"""Sequences that begin alike, laid out so that what they share is computed once.

A sequence is a list of keys: a token id, or a negative number for one position of a picture. Sequences with a long
common beginning make a group; its beginning is decoded as an ordinary row, and what follows it branches: the rest
of every member stands in one row behind it, each position once, and sees only what leads to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

LEAST = 8
"""Shorter beginnings are not worth a pass of their own."""
BRANCHES = 16
"""Answers that grow in one row: each reads the others' keys too, which masks then throw away."""
SPREAD = 512
"""Positions of a row after the shared beginning, unless that is longer; what masks throw away grows with the square."""


@dataclass(frozen=True)
class Group:
    """Sequences with a common beginning.

    Args:
        shared: positions of the beginning; 0 where nothing is shared.
        members: their numbers.
    """

    shared: int
    members: tuple[int, ...]


def grouped(sequences: Sequence[Sequence[int]], limits: Sequence[int]) -> list[Group]:
    """Group sequences so that few positions are computed: neighbours in sorted order join, the most alike first.

    Args:
        sequences: keys.
        limits: for each, how many of its positions may belong to a shared beginning.
    """
    order = sorted(range(len(sequences)), key=lambda number: list(sequences[number]))
    alike = [_common(sequences[one], sequences[other]) for one, other in pairwise(order)]
    spans = {place: _Span(place, place, 0, limits[n], len(sequences[n])) for place, n in enumerate(order)}
    ending = dict(spans)  # by last place, as `spans` by first
    for border in sorted(range(len(alike)), key=lambda place: -alike[place]):
        left, right = ending[border], spans[border + 1]
        joined = left.joined(right, alike[border])
        # A beginning that is a small part of its sequences would leave them to be masked from each other.
        if joined.shared >= max(LEAST, joined.shortest / 2) and joined.saved > left.saved + right.saved:
            del spans[right.first], ending[left.last]
            spans[joined.first] = ending[joined.last] = joined
    return [Group(span.shared, tuple(order[span.first : span.last + 1])) for span in spans.values()]


@dataclass(frozen=True)
class _Span:
    """A group while it grows: places in sorted order, what its members share, may share, and the shortest's length."""

    first: int
    last: int
    shared: int
    limit: int
    shortest: int

    @property
    def saved(self) -> int:
        """Positions that are not computed again."""
        return (self.last - self.first) * self.shared

    def joined(self, other: _Span, alike: int) -> _Span:
        """With the span that follows, where the neighbours at the border have so many positions in common."""
        limit = min(self.limit, other.limit)
        held = [span.shared for span in (self, other) if span.last > span.first]
        return _Span(self.first, other.last, min(alike, limit, *held), limit, min(self.shortest, other.shortest))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How far two sequences are alike."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)


@dataclass
class Tree:
    """What follows a beginning: every position once, those after each other as parent and child.

    Args:
        keys: of the positions.
        depths: how far each is from the end of the beginning, from 0.
        parents: the position before each, -1 for the beginning's last.
        paths: for each sequence the positions that make it up, in order.
    """

    keys: list[int]
    depths: list[int]
    parents: list[int]
    paths: list[list[int]]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> Tree:
        """Merge sequences where they begin alike."""
        tree = cls([], [], [], [])
        known: dict[tuple[int, int], int] = {}
        for sequence in sequences:
            path, here = [], -1
            for depth, key in enumerate(sequence):
                step = (here, key)
                if step not in known:
                    known[step] = len(tree.keys)
                    tree.keys.append(key)
                    tree.depths.append(depth)
                    tree.parents.append(here)
                here = known[step]
                path.append(here)
            tree.paths.append(path)
        return tree

    @property
    def is_chain(self) -> bool:
        """Whether nothing branches."""
        return all(parent == place - 1 for place, parent in enumerate(self.parents))

    def visible(self) -> Tensor:
        """(T, T): each position sees those on its way from the beginning, and itself."""
        size = len(self.keys)
        if self.is_chain:
            return torch.ones(size, size, dtype=torch.bool).tril()
        seen = torch.zeros(size, size, dtype=torch.bool)
        for place, parent in enumerate(self.parents):
            if parent >= 0:
                seen[place, :place] = seen[parent, :place]
            seen[place, place] = True
        return seen


def rows_of(sequences: Sequence[Sequence[int]], shared: int, branches: int) -> list[list[int]]:
    """Cut the members of a group into rows.

    Args:
        sequences: of the group, in its order.
        shared: see `Group`.
        branches: how many may share a row.

    Returns:
        Numbers within `sequences`.
    """
    if not shared:
        return [[number] for number in range(len(sequences))]
    rows: list[list[int]] = []
    spread = 0
    for number, sequence in enumerate(sequences):
        new = len(sequence) - (max(shared, _common(sequences[number - 1], sequence)) if number else shared)
        if not rows or len(rows[-1]) == branches or spread + new > max(SPREAD, shared):
            rows.append([])
            spread, new = 0, len(sequence) - shared
        rows[-1].append(number)
        spread += new
    return rows


def batches(groups: Sequence[Group], batch_size: int) -> Iterator[list[Group]]:
    """Groups that run together: with `batch_size` members, or one that is larger; those that share nothing apart."""
    batch: list[Group] = []
    for group in sorted(groups, key=lambda group: (len(group.members) > 1, group.shared)):
        apart = batch and bool(batch[0].shared) != bool(group.shared)
        if batch and (apart or sum(len(g.members) for g in batch) + len(group.members) > batch_size):
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


def parts(batch: Sequence[Group], batch_size: int) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
    """What of a batch runs behind its beginnings at a time: (group's place, members)."""
    if len(batch) > 1:
        yield [(number, group.members) for number, group in enumerate(batch)]
        return
    members = batch[0].members
    for start in range(0, len(members), batch_size):
        yield [(0, members[start : start + batch_size])]
