"""Check `seed`: nothing but the seed and the input decides."""

from __future__ import annotations

from typing import Any

import torch

from lensmith.testing.findings import expect, some
from lensmith.testing.kit import Kit
from lensmith.testing.spans import dialogues, for_conversation, rendered
from lensmith.testing.subjects import EncoderSubject, ModuleSubject, SplitterSubject, Subject, picture


def seed(subject: ModuleSubject, kit: Kit) -> None:
    """Built twice after one seed; run twice in evaluation mode; pictures cut and prepared twice."""
    case = subject.cases()[0]
    one, other = subject.build(case), subject.build(case)
    state = other.state_dict()
    apart = [name for name, tensor in one.state_dict().items() if not torch.equal(tensor, state[name])]
    expect(not apart, "The same seed gives the same weights.", f"Built twice after one seed, {some(apart)} differ.")
    samples = subject.samples(case, 3)
    with torch.no_grad():
        first, again, others = (subject.run(module, samples) for module in (one, one, other))
    for number, output in enumerate(first):
        for name, second in (("the same module", again[number]), ("a second one of the same seed", others[number])):
            expect(
                torch.equal(output, second),
                "In evaluation mode the same input gives the same output.",
                f"Input {number} gave something else when {name} ran again.",
            )
    _pictures(subject, case)


def _pictures(subject: ModuleSubject, case: Any) -> None:
    shown = picture(57, 131)
    if isinstance(subject, EncoderSubject):
        one, other = (subject.implementation.preprocessing(subject.spec)(shown) for _ in range(2))
        expect(torch.equal(one, other), "A picture is prepared the same way each time.", "Its pixels differ.")
    if isinstance(subject, SplitterSubject):
        layouts = [subject.spec.layout((131, 57), *case) for _ in range(2)]
        expect(layouts[0] == layouts[1], "A picture is laid out the same way each time.", f"They are {layouts}.")
        one, other = (
            [view.tobytes() for view in subject.implementation.split(subject.spec, shown, layouts[0], (0, 0, 0))]
            for _ in range(2)
        )
        expect(one == other, "A picture is cut the same way each time.", "Its views differ.")


def conversation(subject: Subject, kit: Kit) -> None:
    """Rendered twice by one object and once by another."""
    template, _ = for_conversation(subject)
    second, _ = for_conversation(subject)
    for turns in dialogues():
        first = rendered(template, turns)
        if first is None:
            continue
        expect(
            first == rendered(template, turns) == rendered(second, turns),
            "The same turns are rendered to the same segments each time.",
            f"{len(turns)} turns were rendered in two ways.",
        )
