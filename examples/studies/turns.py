"""The turns of the study's two stages: what is seen, then questions on one picture as one conversation."""

from __future__ import annotations

import random
from collections.abc import Sequence

from questions import SHORT, TASKS, about, read

WEIGHTS = {"read": 3.0, "locate": 1.0, "count": 1.0, "compare": 0.7, "add": 0.7}
"""How often stage 2 asks what of a mosaic: every cell of a picture that is read is learnt from."""
PLACED = {4: 0.3, 9: 0.6}
"""Share of the mosaics of stage 2 that are also asked for the digit at a place, first."""

Turn = tuple[str, str]  # question, answer


def stage1_turns(labels: Sequence[int]) -> list[Turn]:
    """Stage 1 only names what is seen."""
    return [("Which digit is this?" if len(labels) == 1 else "Read the digits row by row.", read(labels))]


def stage2_turns(labels: Sequence[int], rng: random.Random) -> list[Turn]:
    """Questions on one picture as one conversation, as the papers merge them.

    Of a mosaic one question is answered in steps, and it comes last: from its answer the others would follow without
    a look at the picture.
    """
    questions = about(labels, rng)
    short = rng.random() < 0.65
    if len(labels) == 1:
        chosen = rng.sample(questions, len(questions))
    else:
        chosen = rng.sample([q for q in questions if not TASKS[q.task].plain], int(rng.random() < PLACED[len(labels)]))
        steps = [q for q in questions if TASKS[q.task].plain]
        chosen += rng.choices(steps, [WEIGHTS[q.task.split()[0]] for q in steps])
    turns: list[Turn] = []
    prompted = False
    for question in chosen:
        in_a_word = short and not TASKS[question.task].plain
        # The format prompt is said once a conversation.
        prompt = SHORT if in_a_word and not prompted else ""
        prompted |= in_a_word
        turns.append((question.text + prompt, question.short if in_a_word else question.sentence))
    return turns
