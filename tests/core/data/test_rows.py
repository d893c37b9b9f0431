"""LLaVA rows to turns: the forms that data sets come in, where pictures are put, and every message."""

from __future__ import annotations

from typing import Any

import pytest

from lensmith.data.rows import RowError, parse_row, user_turn
from lensmith.errors import DataError
from lensmith.interfaces.text import Turn


def said(*texts: str) -> list[dict[str, str]]:
    """Messages, the human first."""
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def row(*texts: str, image: Any = None, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"conversations": said(*texts), **more}
    return found if image is None else {**found, "image": image}


def parts(raw: dict[str, Any], **options: Any) -> list[tuple[str | None, ...]]:
    return [turn.parts for turn in parse_row(raw, number=0, **options).turns]


class TestForms:
    def test_a_picture_and_a_dialogue(self) -> None:
        raw = row("<image>\nWhat is it?", "A bus.", "Which colour?", "Red.", image="a/b.jpg", id="r1")
        parsed = parse_row(raw, number=7)
        assert (parsed.id, parsed.images) == ("r1", ("a/b.jpg",))
        assert parsed.turns == (
            Turn("user", (None, "\nWhat is it?")),
            Turn("assistant", ("A bus.",)),
            Turn("user", ("Which colour?",)),
            Turn("assistant", ("Red.",)),
        )

    def test_text_alone(self) -> None:
        parsed = parse_row(row("Hi", "Hello"), number=0)
        assert parsed.images == ()
        assert [turn.text for turn in parsed.turns] == ["Hi", "Hello"]

    def test_the_newer_names_of_the_speakers(self) -> None:
        messages = [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]
        assert parse_row({"conversations": messages}, number=0) == parse_row(row("q", "a"), number=0)

    @pytest.mark.parametrize(
        ("given", "expected"),
        [({"id": "x"}, "x"), ({"id": 17}, "17"), ({"id": 0}, "0"), ({}, "4"), ({"id": None}, "4"), ({"id": ""}, "")],
    )
    def test_a_row_without_an_id_is_called_by_its_number(self, given: dict[str, Any], expected: str) -> None:
        assert parse_row(row("q", "a", **given), number=4).id == expected

    def test_further_fields_are_ignored(self) -> None:
        assert parse_row(row("q", "a", model="x", source=[1]), number=0).turns

    def test_an_empty_list_of_pictures_is_none(self) -> None:
        assert parse_row({**row("q", "a"), "image": []}, number=0).images == ()

    def test_a_question_may_be_open(self) -> None:
        assert len(parse_row(row("q", "a", "q2"), number=0).turns) == 3


class TestPlacement:
    def test_front_moves_a_picture_and_takes_the_space_around_off(self) -> None:
        assert parts(row("  What is it?\n<image>  ", "a", image="i"))[0] == (None, "\nWhat is it?")

    def test_front_is_the_default(self) -> None:
        raw = row("Look: <image> there", "a", image="i")
        assert parts(raw) == parts(raw, placement="front")
        assert parts(raw)[0] == (None, "\nLook:  there")

    def test_keep_leaves_it_where_it_stands(self) -> None:
        assert parts(row(" Look: <image> there ", "a", image="i"), placement="keep")[0] == (
            " Look: ",
            None,
            " there ",
        )

    @pytest.mark.parametrize("placement", ["front", "keep"])
    def test_a_picture_alone(self, placement: str) -> None:
        assert parts(row("<image>", "a", image="i"), placement=placement)[0] == (None,)

    def test_a_turn_without_a_picture_keeps_its_space(self) -> None:
        assert parts(row("<image>", " a ", " b ", "c", image="i"))[1:3] == [(" a ",), (" b ",)]

    def test_repeated_placeholders_of_one_picture_are_one(self) -> None:
        assert parts(row("<image>\n<image>\nCompare.", "a", image="i"))[0] == (None, "\nCompare.")
        assert parts(row("<image><image>", "a", image="i"))[0] == (None,)

    def test_keep_collapses_nothing(self) -> None:
        with pytest.raises(RowError, match="has 1 picture but 2 <image>"):
            parse_row(row("<image>\n<image>\nCompare.", "a", image="i"), number=0, placement="keep")

    def test_a_list_of_one_path_is_a_row_with_one_picture(self) -> None:
        assert parts(row("<image><image> x", "a", image=["i"]))[0] == (None, "\nx")

    def test_several_pictures_in_one_turn(self) -> None:
        raw = row("First <image> second <image> which?", "a", image=["1", "2"])
        assert parse_row(raw, number=0).images == ("1", "2")
        assert parts(raw)[0] == (None, "\n", None, "\nFirst  second  which?")
        assert parts(raw, placement="keep")[0] == ("First ", None, " second ", None, " which?")

    def test_several_pictures_over_the_turns_keep_their_order(self) -> None:
        parsed = parse_row(row("<image>\nFirst?", "A.", "Second <image>", "B.", image=["1", "2"]), number=0)
        assert [turn.parts for turn in parsed.turns] == [
            (None, "\nFirst?"),
            ("A.",),
            (None, "\nSecond"),
            ("B.",),
        ]

    def test_a_picture_in_an_answer(self) -> None:
        assert parts(row("Draw.", "Here: <image>", image="i"), placement="keep")[1] == ("Here: ", None)

    def test_a_placeholder_without_a_picture_is_text_where_the_spec_says_so(self) -> None:
        assert parts(row("What does <image> mean?", "A tag: <image>"), missing_images="text") == [
            ("What does <image> mean?",),
            ("A tag: <image>",),
        ]


class TestRoles:
    def test_an_answer_to_nothing_is_dropped(self) -> None:
        raw = {"conversations": [{"from": "gpt", "value": "cut off"}, *said("q", "a")]}
        assert [turn.text for turn in parse_row(raw, number=0).turns] == ["q", "a"]

    def test_only_the_first_one(self) -> None:
        raw = {"conversations": [{"from": "gpt", "value": "1"}, {"from": "gpt", "value": "2"}, *said("q", "a")]}
        with pytest.raises(RowError, match="turns 0 and 1 are both assistant's; they must alternate"):
            parse_row(raw, number=0)

    def test_two_questions_in_a_row(self) -> None:
        raw = {"conversations": [*said("q", "a", "q"), {"from": "human", "value": "and?"}]}
        with pytest.raises(RowError, match="turns 2 and 3 are both user's; they must alternate"):
            parse_row(raw, number=0)

    def test_an_answer_alone(self) -> None:
        with pytest.raises(RowError, match="has no message of the user"):
            parse_row({"conversations": [{"from": "gpt", "value": "a"}]}, number=0)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("text", "is text, not an object with `conversations`"),
        ([], "is a list, not an object with `conversations`"),
        (None, "is missing, not an object with `conversations`"),
        (3, "is a number, not an object with `conversations`"),
        (True, "is a truth value, not an object with `conversations`"),
        ({}, 'has no `conversations`: a list of {"from": "human" | "gpt", "value": text}'),
        ({"conversations": []}, "has no `conversations`: a list of"),
        ({"conversations": {"from": "human"}}, "has no `conversations`: a list of"),
        ({"conversations": ["hi"]}, 'turn 0 is text, not {"from": …, "value": …}'),
        (
            {"conversations": [{"from": "system", "value": "x"}]},
            "turn 0 is from 'system'; \"from\" is one of human, user, gpt, assistant",
        ),
        ({"conversations": [{"value": "x"}]}, "turn 0 is from None;"),
        ({"conversations": [*said("q"), {"from": "gpt", "value": None}]}, 'turn 1: "value" is missing, not text'),
        ({"conversations": [{"from": "human", "value": ["x"]}]}, 'turn 0: "value" is a list, not text'),
        ({"conversations": [{"from": "human", "value": 1.5}]}, 'turn 0: "value" is a number, not text'),
        (
            row("q", "\ud83d oops"),
            'turn 1: "value" holds half of a surrogate pair, which is no character; write it whole',
        ),
        ({**row("<image>", "a"), "image": 3}, "`image` is a number, not a path or a list of paths"),
        ({**row("<image>", "a"), "image": ["a", 3]}, "`image`, entry 1, is a number, not a path or a list of paths"),
        ({**row("<image>", "a"), "image": {"a": "a"}}, "`image` is an object with a, not a path or a list of paths"),
        (
            row("no placeholder", "a", image="i"),
            "has 1 picture but 0 <image> in its turns; there must be one for each",
        ),
        (
            row("<image>", "a", image=["1", "2"]),
            "has 2 pictures but 1 <image> in its turns; there must be one for each",
        ),
        (row("<image><image><image>", "a", image=["1", "2"]), "has 2 pictures but 3 <image> in its turns"),
        (row("<image>", "a", "<image>", "b", image="i"), "has 1 picture but 2 <image> in its turns"),
    ],
)
def test_messages(raw: Any, message: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_row(raw, number=0)
    assert message in str(caught.value)
    assert isinstance(caught.value, DataError)


class TestUserTurn:
    def test_without_placeholder_pictures_stand_in_front(self) -> None:
        assert user_turn("What?", 1).parts == (None, "\nWhat?")
        assert user_turn("Compare.", 2).parts == (None, "\n", None, "\nCompare.")

    def test_placeholders_are_kept_where_they_are(self) -> None:
        assert user_turn("Is <image> like <image>?", 2).parts == ("Is ", None, " like ", None, "?")

    def test_text_alone(self) -> None:
        assert user_turn(" Hi ", 0).parts == (" Hi ",)

    @pytest.mark.parametrize(("text", "images"), [("<image> x", 0), ("<image> x", 2), ("<image><image>", 1)])
    def test_another_number_of_placeholders(self, text: str, images: int) -> None:
        written = text.count("<image>")
        with pytest.raises(RowError, match=f"the prompt holds {written} <image> for {images} pictures"):
            user_turn(text, images)
