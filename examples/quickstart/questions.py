"""Questions about pictures of digits: one digit, a 2x2 or a 3x3 mosaic.

Some are answered in a word where the prompt asks for it, else in a sentence. Some (read, locate, count, compare, add)
are answered in steps: what is seen first, what follows from it last, after the last comma.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

CELLS = 3
"""A sheet has so many rows and columns of cells, each with room for one digit."""
SHORT = "\nAnswer the question using a single word or phrase."
"""The papers' response-format prompt; without it the answer is a sentence."""
PLACES = {
    4: ("top left", "top right", "bottom left", "bottom right"),
    9: (
        "top left",
        "top middle",
        "top right",
        "middle left",
        "centre",
        "middle right",
        "bottom left",
        "bottom middle",
        "bottom right",
    ),
}
ROWS = ("top", "bottom")
SIDES = ("left", "right")


@dataclass(frozen=True)
class Task:
    """What is asked: of how many digits, how it scores by chance, and whether it is asked without a format prompt."""

    digits: int
    chance: str
    plain: bool = False


TASKS = {
    "digit": Task(1, "10 %"),
    "digit in a sentence": Task(1, "10 %", plain=True),
    "even or odd": Task(1, "50 %"),
    "read 2x2": Task(4, "0 %", plain=True),
    "at a place 2x2": Task(4, "10 %"),
    "locate 2x2": Task(4, "25 %", plain=True),
    "count 2x2": Task(4, "33 %", plain=True),
    "compare 2x2": Task(4, "50 %", plain=True),
    "add 2x2": Task(4, "1 %", plain=True),
    "read 3x3": Task(9, "0 %", plain=True),
    "at a place 3x3": Task(9, "10 %"),
    "locate 3x3": Task(9, "11 %", plain=True),
}
NAMED = "named 2x2"
"""Asked in training alone: several places in any order, so that a place is found by its name."""
SUMS = "sums 2x2"
"""Asked in training alone: several sums at once, as the first layers of a language model know none any more."""
PAIRS = {"top": (0, 1), "bottom": (2, 3), "left": (0, 2), "right": (1, 3)}


@dataclass(frozen=True)
class Question:
    """One question: its task, its words, the answer in a word, and the one in a sentence or in steps."""

    task: str
    text: str
    short: str
    sentence: str


def draw(digits: int, rng: random.Random) -> list[int]:
    """Labels of one picture; in half of the 2x2 mosaics a digit appears twice."""
    if digits == 1:
        return [rng.randrange(10)]
    labels = rng.sample(range(10), digits)
    if digits == 4 and rng.random() < 0.5:
        source, target = rng.sample(range(4), 2)
        labels[target] = labels[source]
    return labels


def read(labels: Sequence[int]) -> str:
    """The digits row by row, rows separated by a space: `37 19`."""
    side = round(len(labels) ** 0.5)
    return " ".join("".join(map(str, labels[i : i + side])) for i in range(0, len(labels), side))


def look_for(digit: int, labels: Sequence[int]) -> str:
    """Places and digits up to the wanted one: `top left 9 no, top right 7 yes`."""
    places = PLACES[len(labels)]
    steps = labels[: labels.index(digit) + 1]
    return ", ".join(f"{place} {one} {('no', 'yes')[one == digit]}" for place, one in zip(places, steps, strict=False))


def named(labels: Sequence[int], rng: random.Random) -> tuple[str, str]:
    """A question after several places, and its answer: `bottom left 5, top left 3`."""
    places = PLACES[len(labels)]
    chosen = rng.sample(range(len(labels)), rng.randint(2, len(labels)))
    *first, last = (places[index] for index in chosen)
    asked = f"Which digits are {', '.join(first)} and {last}?"
    return asked, ", ".join(f"{places[index]} {labels[index]}" for index in chosen)


def sums(labels: Sequence[int], rng: random.Random) -> tuple[str, str]:
    """A question after several sums, and its answer: `3+4=7, 3+9=12`."""
    chosen = rng.sample(list(PAIRS), rng.randint(2, len(PAIRS)))
    pairs = [(labels[PAIRS[name][0]], labels[PAIRS[name][1]]) for name in chosen]
    asked = f"Add {', '.join(f'the {name} digits' for name in chosen)}."
    return asked, ", ".join(f"{one}+{two}={one + two}" for one, two in pairs)


def tally(digit: int, labels: Sequence[int]) -> str:
    """Each digit with yes or no, then how many yes: `9 yes, 5 no, 9 yes, 6 no, 2`."""
    marks = [f"{label} {('no', 'yes')[label == digit]}" for label in labels]
    return ", ".join([*marks, str(labels.count(digit))])


def about(labels: Sequence[int], rng: random.Random) -> list[Question]:
    """Questions that can be asked about a picture."""
    if len(labels) == 1:
        return _about_one(labels[0])
    return _about_mosaic(labels, rng) + (_about_four(labels, rng) if len(labels) == 4 else [])


def _about_one(digit: int) -> list[Question]:
    parity = ("even", "odd")[digit % 2]
    return [
        Question("digit", "Which digit is this?", str(digit), f"This is {_article(digit)}."),
        Question("even or odd", "Is this digit even or odd?", parity, f"The digit is {parity}."),
    ]


def _about_mosaic(labels: Sequence[int], rng: random.Random) -> list[Question]:
    places = PLACES[len(labels)]
    size = f"{round(len(labels) ** 0.5)}x{round(len(labels) ** 0.5)}"
    questions = [Question(f"read {size}", "Read the digits row by row.", read(labels), read(labels))]
    for index in rng.sample(range(len(labels)), 2):
        where, digit = places[index], labels[index]
        text = f"Which digit is {where}?"
        questions.append(Question(f"at a place {size}", text, str(digit), f"The digit {where} is {_article(digit)}."))
    alone = [digit for digit in labels if labels.count(digit) == 1]
    for digit in rng.sample(alone, min(2, len(alone))):
        text = f"Where is the {digit}?"
        steps = f"{look_for(digit, labels)}."
        questions.append(Question(f"locate {size}", text, places[labels.index(digit)], steps))
    return questions


def _about_four(labels: Sequence[int], rng: random.Random) -> list[Question]:
    questions = []
    row = rng.randrange(2)
    left, right = labels[2 * row : 2 * row + 2]
    total = f"{left}+{right}={left + right}"
    questions.append(Question("add 2x2", f"Add the {ROWS[row]} digits.", total, total))
    row = rng.randrange(2)
    left, right = labels[2 * row : 2 * row + 2]
    if left != right:
        side = SIDES[right > left]
        text = f"Which {ROWS[row]} digit is larger, left or right?"
        steps = f"{left} left, {right} right, larger {max(left, right)} {side}."
        questions.append(Question("compare 2x2", text, side, steps))
    wanted = rng.choice(sorted({labels.count(digit) for digit in range(10)}))
    digit = rng.choice([digit for digit in range(10) if labels.count(digit) == wanted])
    questions.append(Question("count 2x2", f"How many {digit}s are there?", str(wanted), f"{tally(digit, labels)}."))
    return questions


def text_only(rng: random.Random) -> tuple[str, str]:
    """A question that needs no picture, and its answer."""
    one, two = rng.sample(range(10), 2)
    labels = draw(4, rng)
    digit = rng.choice(labels)
    larger = f"larger {max(one, two)} {SIDES[two > one]}."
    return rng.choice(
        [
            (f"Add {one} and {two}.", f"{one}+{two}={one + two}"),
            (f"{one} left, {two} right, which is larger?", larger),
            (f"Is {one} even or odd?", f"{one} is {('even', 'odd')[one % 2]}."),
            (f"How many {digit}s are in {read(labels)}?", f"{tally(digit, labels)}."),
        ]
    )


def balanced_answer(task: str, number: int) -> str | None:
    """The answer that a task's question of that number must have, so that no answer is more likely than another."""
    choices: dict[str, Sequence[str]] = {
        "digit": [str(digit) for digit in range(10)],
        "digit in a sentence": [str(digit) for digit in range(10)],
        "even or odd": ["even", "odd"],
        "at a place 2x2": [str(digit) for digit in range(10)],
        "at a place 3x3": [str(digit) for digit in range(10)],
        "locate 2x2": PLACES[4],
        "locate 3x3": PLACES[9],
        "count 2x2": ["0", "1", "2"],
        "compare 2x2": SIDES,
    }
    return choices[task][number % len(choices[task])] if task in choices else None


def _article(digit: int) -> str:
    return f"{'an' if digit == 8 else 'a'} {digit}"
