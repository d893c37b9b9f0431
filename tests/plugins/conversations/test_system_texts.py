"""A system text of one conversation instead of the template's own."""

from __future__ import annotations

import pytest

from lensmith import ConversationError, Turn
from lensmith.parts import implementation
from lensmith.spec.build import installed, part_class
from lensmith_registry import Kind

NAMES = sorted(set(installed().names(Kind.CONVERSATION)) - {"plain", "tokenizer"})
TURNS = [Turn("user", ("Hello",)), Turn("assistant", ("Hi",)), Turn("user", ("Who?",))]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_written_as_the_spec_would_write_it(name: str) -> None:
    spec = part_class(Kind.CONVERSATION, name, installed())()
    make = implementation(Kind.CONVERSATION, spec)
    plain = make(spec)
    before = plain.render(TURNS, reply=True)
    told = plain.with_system("Be brief.").render(TURNS, reply=True)
    assert told == make(spec.model_copy(update={"system": "Be brief."})).render(TURNS, reply=True)
    assert "Be brief." in "".join(segment.text for segment in told)
    assert plain.render(TURNS, reply=True) == before
    assert plain.with_system("Be brief.").stop_strings() == plain.stop_strings()


def test_a_template_without_a_place_refuses() -> None:
    spec = part_class(Kind.CONVERSATION, "plain", installed())()
    with pytest.raises(ConversationError, match="no place for a system message"):
        implementation(Kind.CONVERSATION, spec)(spec).with_system("Be brief.")
