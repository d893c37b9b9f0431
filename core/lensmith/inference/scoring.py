"""How likely given answers are, the questions' pictures and words computed once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lensmith.inference.branching import branched
from lensmith.inference.decoder import Decoder
from lensmith.interfaces.text import IGNORE_LABEL

_LOGITS = 256
"""Positions whose logits exist at the same time."""


@dataclass(frozen=True)
class Likelihood:
    """Of an answer as a whole, its end included.

    Args:
        log: natural logarithm of the probability that the model answers exactly this.
        tokens: ids that it sums over, the end token among them.
        greedy: whether each of them is the most likely one, so that a greedy answer is this one; None where that is
            not known.
    """

    log: float
    tokens: int
    greedy: bool | None = None

    @property
    def mean(self) -> float:
        """Log-likelihood a token, to compare answers of different lengths."""
        return self.log / self.tokens


def likelihoods(
    decoder: Decoder, sequences: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], batch_size: int
) -> list[Likelihood]:
    """Score sequences.

    Args:
        decoder: with their pictures.
        sequences: keys of prompts with their answers.
        targets: for each position the id that it must predict, or -100 (see `Sample`).
        batch_size: sequences that run together.
    """
    learnt = [[place for place, target in enumerate(row) if target != IGNORE_LABEL] for row in targets]
    needed = [row[: places[-1] + 1] for row, places in zip(sequences, learnt, strict=True)]
    totals = [0.0] * len(sequences)
    greedy = [True] * len(sequences)
    for rows in branched(decoder, needed, [places[0] for places in learnt], batch_size, batch_size):
        wanted: dict[tuple[int, int], list[tuple[int, int]]] = {}  # (row, position): its (sequence, target)s
        for row, (members, shared, tree) in enumerate(zip(rows.members, rows.shared, rows.trees, strict=True)):
            for number, path in zip(members, tree.paths, strict=True):
                for place in learnt[number]:
                    wanted.setdefault((row, path[place - shared]), []).append((number, targets[number][place]))
        places = list(wanted)
        for start in range(0, len(places), _LOGITS):
            chosen = places[start : start + _LOGITS]
            hidden = rows.begun.hidden[[row for row, _ in chosen], [place for _, place in chosen]]
            logs = decoder.language_model.head(hidden).float().log_softmax(-1)
            likeliest = logs.argmax(-1).tolist()
            pairs = [(at, target) for at, place in enumerate(chosen) for _, target in wanted[place]]
            found = logs[[at for at, _ in pairs], [target for _, target in pairs]].tolist()
            owners = [number for place in chosen for number, _ in wanted[place]]
            for number, log, (at, target) in zip(owners, found, pairs, strict=True):
                totals[number] += log
                greedy[number] &= likeliest[at] == target
    return [Likelihood(*one) for one in zip(totals, map(len, learnt), greedy, strict=True)]
