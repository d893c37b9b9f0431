"""Rows as other tools write them: what they hold is used, or refused by name with the cure; nothing is passed over."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from lensmith.data.rows import Row, RowError, parse_row
from lensmith.interfaces.text import Turn

ASK = [{"from": "human", "value": "<image>\nWhat colour?"}, {"from": "gpt", "value": "red"}]
TEXT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
CHAT = [{"role": "user", "content": "<image>What colour?"}, {"role": "assistant", "content": "red"}]


def parsed(raw: Any, **options: Any) -> Row:
    return parse_row(raw, number=0, **options)


def refused(raw: Any, **options: Any) -> str:
    with pytest.raises(RowError) as caught:
        parsed(raw, **options)
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 500
    return told


def png() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 10, 10)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    "raw",
    [
        {"images": ["a.png"], "conversations": ASK},
        {"images": "a.png", "conversations": ASK},
        {"image": None, "images": ["a.png"], "conversations": ASK},
        {"image": "a.png", "images": ["a.png"], "conversations": ASK},
        {"image": {"bytes": None, "path": "a.png"}, "conversations": ASK},
        {"images": [{"path": "a.png"}], "messages": CHAT},
        {"image": "a.png", "messages": CHAT, "conversations": None},
        {"image": "a.png", "conversations": [{"role": "user", "content": "<image> What colour?"}, ASK[1]]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
            ]
        },
        {
            "images": ["a.png"],
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": "red"},
            ],
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, "What?"]},
                {"role": "assistant", "content": "red"},
            ]
        },
        {"image": "a.png", "image_url": "a.png", "image_id": 7, "image_width": 40, "conversations": ASK},
        {
            "image": "a.png",
            "conversations": ASK,
            "model": "x",
            "source": "coco",
            "width": 3,
            "videos": [],
            "tools": None,
        },
    ],
)
def test_D1_an_image_is_shown_however_its_row_names_it(raw: dict[str, Any]) -> None:
    row = parsed(raw)
    assert row.images == ("a.png",)
    assert sum(turn.images for turn in row.turns) == 1


@pytest.mark.parametrize("value", [None, [], "", [None], [""], {}])
@pytest.mark.parametrize("key", ["image", "images"])
def test_D1_an_image_that_is_null_or_empty_is_refused(key: str, value: Any) -> None:
    told = refused({key: value, "conversations": ASK})
    if value == []:
        assert "<image>" in told
        assert parsed({key: value, "conversations": TEXT}).images == ()
    else:
        assert f"`{key}`" in told
        assert f"`{key}`" in refused({key: value, "conversations": TEXT})
    if value != [None] and value != [""]:
        assert parsed({key: value, "conversations": TEXT}, missing_images="text").images == ()


@pytest.mark.parametrize(
    "key",
    [
        "img",
        "imgs",
        "picture",
        "pictures",
        "photo",
        "image_path",
        "image_file",
        "image_url",
        "Image",
        "IMAGES",
        "imgae",
        "pixel_values",
        "img_path",
        "image0",
        "jpg",
        "input_image",
        "image_list",
        "image-paths",
        "image_base64",
    ],
)
@pytest.mark.parametrize("turns", [ASK, TEXT])
def test_D1_an_image_under_another_name_is_refused_by_it(key: str, turns: Any) -> None:
    told = refused({key: "a.png", "conversations": turns})
    assert f"`{key}`" in told
    assert "call it `image`" in told
    assert "`ignore`" in told
    if turns is TEXT:
        assert parsed({key: "a.png", "conversations": turns}, ignored=[key]).images == ()


@pytest.mark.parametrize("value", ["a/b.JPG", ["x.png"], "data:image/png;base64,AAAA", {"bytes": "x", "path": "y"}])
def test_D1_what_looks_like_an_image_is_refused_under_any_name(value: Any) -> None:
    assert "looks like an image" in refused({"scan": value, "conversations": TEXT})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("video", "a.mp4"),
        ("videos", ["a.mp4"]),
        ("audio", "a.wav"),
        ("audios", ["a.wav"]),
        ("video_path", "a"),
        ("tools", [{"name": "f"}]),
        ("functions", "[]"),
        ("system_prompt", "Be brief."),
        ("loss", False),
        ("train", 0),
        ("weight", 0.5),
        ("loss_weight", 2),
        ("loss_mask", [0, 1]),
        ("documents", ["d"]),
        ("history", [["q", "a"]]),
        ("chosen", "x"),
        ("rejected", "x"),
        ("rejected_response", "x"),
        ("label", False),
        ("labels", [1, 2]),
        ("input_ids", [1]),
        ("reasoning_content", "hm"),
        ("messages", CHAT),
    ],
)
def test_D1_other_data_of_a_row_is_refused_by_name(key: str, value: Any) -> None:
    row = {"image": "a.png", "conversations": ASK}
    told = refused({**row, key: value})
    assert f"`{key}`" in told
    assert parsed({**row, key: value}, ignored=[key]) == parsed(row)
    assert parsed({**row, key: None}) == parsed(row)  # as tables have it


@pytest.mark.parametrize(
    "mark",
    [
        "<image>",
        "<|image|>",
        "<|image_1|>",
        "<image_1>",
        "<ImageHere>",
        "<Image>",
        "<|vision_start|>",
        "<image_pad>",
        "<image_soft_token>",
        "<start_of_image>",
        "[IMG]",
        "<im_start><im_end>",
        "<video>",
        "<audio>",
    ],
)
def test_D1_a_place_for_an_image_without_one_is_refused(mark: str) -> None:
    row = {"conversations": [{"from": "human", "value": f"{mark}What colour?"}, ASK[1]]}
    told = refused(row)
    assert mark.strip() in told
    assert "missing_images: text" in told
    assert parsed(row, missing_images="text").turns[0].text == f"{mark}What colour?"


def test_code_that_speaks_of_images_is_text() -> None:
    code = 'Use <img src="a.png"> or <video controls></video>, `[image]: x`'
    assert parsed({"conversations": [{"from": "human", "value": code}, ASK[1]]}).turns[0].text == code


def test_other_places_are_named_where_counts_differ() -> None:
    row = {"image": "a.png", "conversations": [{"from": "human", "value": "<|image_1|> What?"}, ASK[1]]}
    assert "write <image> for <|image_1|>" in refused(row)


@pytest.mark.parametrize(
    "row",
    [
        {"system": "Be brief.", "conversations": TEXT},
        {"messages": [{"role": "system", "content": "Be brief."}, *CHAT], "image": "a.png"},
        {"system": "Be brief.", "messages": [{"role": "system", "content": "Be brief."}, *CHAT], "image": "a.png"},
        {"system": "", "messages": [{"role": "system", "content": "Be brief."}, *CHAT], "image": "a.png"},
    ],
)
def test_D10_a_system_text_is_kept(row: dict[str, Any]) -> None:
    assert parsed(row).system == "Be brief."


def test_D10_system_texts_that_are_none_or_two() -> None:
    assert parsed({"conversations": TEXT}).system is None
    assert parsed({"system": None, "conversations": TEXT}).system is None
    assert parsed({"system": "", "conversations": TEXT}).system == ""
    assert "`system` is a list" in refused({"system": ["x"], "conversations": TEXT})
    two = {"system": "a", "messages": [{"role": "system", "content": "b"}, *CHAT], "image": "a.png"}
    assert "another system message" in refused(two)
    assert "only the first" in refused({"messages": [*CHAT, {"role": "system", "content": "b"}]})
    # As the original, whose files have no such turn.
    assert "as the row's `system`" in refused({"conversations": [{"from": "system", "value": "b"}, *TEXT]})


@pytest.mark.parametrize("key", ["loss", "train", "weight", "Loss", "loss_weight", "learn", "trainable"])
@pytest.mark.parametrize("value", [False, 0, 0.0])
def test_D10_an_answer_that_is_not_to_be_learnt(key: str, value: Any) -> None:
    turns = [*TEXT, {"from": "human", "value": "And?"}, {"from": "gpt", "value": "so", key: value}]
    assert parsed({"conversations": turns}).unlearnt == {3}
    cut = [{"from": "gpt", "value": "cut off", key: value}, *turns]
    assert parsed({"conversations": cut}).unlearnt == {3}
    assert parsed({"conversations": [TEXT[0], {**TEXT[1], key: 1}]}).unlearnt == frozenset()
    assert parsed({"conversations": [{**TEXT[0], key: value}, TEXT[1]]}).unlearnt == frozenset()


@pytest.mark.parametrize("value", [0.5, "false", -1, [0], 2])
def test_D10_what_is_neither_learnt_nor_not_is_refused(value: Any) -> None:
    assert "turn 1: `loss`" in refused({"conversations": [TEXT[0], {**TEXT[1], "loss": value}]})


def test_D10_a_users_words_are_never_learnt() -> None:
    assert "never learnt" in refused({"conversations": [{**TEXT[0], "loss": True}, TEXT[1]]})
    both = {**TEXT[1], "loss": True, "train": False}
    assert "differ" in refused({"conversations": [TEXT[0], both]})


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"image": "a.png"}, "`image`"),
        ({"images": ["a.png"]}, "`images`"),
        ({"tool_calls": [{"id": 1}]}, "`tool_calls`"),
        ({"reasoning_content": "hm"}, "`reasoning_content`"),
        ({"audio": {"id": 1}}, "`audio`"),
        ({"role": "assistant"}, "`from` and `role`"),
    ],
)
def test_D1_data_of_a_turn_is_refused_by_name(more: dict[str, Any], named: str) -> None:
    assert named in refused({"conversations": [{**TEXT[0], **more}, TEXT[1]]})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"conversations": '[{"from": "human"}]'}, "here it is text"),
        ({"conversations": {"from": "human"}}, "put it into a list"),
        ({"question": "q", "answer": "a"}, "`question` and `answer`"),
        ({"instruction": "q", "output": "a", "input": ""}, "`instruction` and `output`"),
        ({"text": "once"}, "`text`"),
        ({"data": [{"conversations": TEXT}] * 3}, "`data` is a list of 3 objects"),
        ({"conversations": [{"from": "human", "text": "x"}]}, 'its words are in "text"'),
        ({"image": "https://x.org/a.png", "conversations": ASK}, "is an address (https://x.org/a.png)"),
        ({"image": "s3://b/a.png", "conversations": ASK}, "is an address"),
        ({"image": "file:///a.png", "conversations": ASK}, "the address of a file"),
        ({"image": "data:image/svg+xml,<svg/>", "conversations": ASK}, "a data URI that is not base64"),
        ({"image": {"bytes": [1, 2]}, "conversations": ASK}, "has a list as `bytes`"),
        ({"image": 3, "conversations": ASK}, "`image` is a number"),
        ({"image": True, "conversations": ASK}, "`image` is a truth value"),
        ({"image": "a.png", "images": ["b.png"], "conversations": ASK}, "they differ"),
        ({"images": ["a.png", "b.png"], "conversations": ASK}, "2 pictures but 1 <image>"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "turn 0 is from 'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "video", "video": "x"}]}]}, "of type 'video'"),
        ({"messages": [{"role": "user", "content": None}]}, "is missing, not text"),
    ],
)
def test_D11_other_forms_are_told_shortly_with_the_cure(raw: Any, message: str) -> None:
    assert message in refused(raw)


def test_D11_a_long_value_is_not_repeated() -> None:
    refused({"image": "https://x.org/" + "a" * 12_299, "conversations": ASK})
    refused({"conversations": "x" * 12_299})
    refused({"x" * 12_299: "a.png", "conversations": ASK})
    assert len(parsed({"id": "i" * 12_299, "conversations": TEXT}).id) < 300
    assert parsed({"id": {"a": 1}, "conversations": TEXT}).id == "0"


@pytest.mark.parametrize("written", ["data:image/png;base64,{}", "{}"])
def test_D11_an_image_may_stand_in_its_row(written: str, tmp_path: Any) -> None:
    from lensmith.data.row_images import image_size, is_inline, open_image
    from lensmith.spec.pictures import PicturePolicy

    name = written.format(png())
    row = parsed({"image": name, "conversations": ASK})
    assert row.images == (name,)
    assert is_inline(name)
    assert not is_inline("images/iVBORw0KGgo.png")
    assert open_image(tmp_path, name, PicturePolicy()).getpixel((0, 0)) == (200, 10, 10)
    assert image_size(tmp_path, name, PicturePolicy()) == (20, 30)


def test_N18_two_places_for_one_image_are_told() -> None:
    row = parsed({"image": "a.png", "conversations": [{"from": "human", "value": "<image>\n<image>\nWhat?"}, ASK[1]]})
    assert row.turns[0] == Turn("user", (None, "\nWhat?"))
    assert row.notes == ("writes <image> more than once in a turn for its one picture; one is kept",)
    assert parsed({"image": "a.png", "conversations": ASK}).notes == ()
