"""Prompts, placeholders and stops of the original LLaVA code (`golden/prompts`), and what of them is not ours."""

from __future__ import annotations

import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from lensmith import Conversation, ConversationError, GenerationOptions, Kind, Segment, Turn, discover
from lensmith.data.encode import encode
from lensmith.data.rows import parse_row, user_turn
from lensmith.spec.pictures import PicturePolicy
from lensmith.spec.run import DataSpec, ModelSpec, StageSpec
from lensmith_plugins.conversations.specs import HumanAssistantSpec
from lensmith_plugins.language_models.answers import split_stops
from lensmith_plugins.language_models.hf_tokenizer import HfTokenizer
from lensmith_plugins.language_models.specs import VicunaSpec
from lensmith_plugins.language_models.tokenizer_loading import load_tokenizer

SHARED = Path(os.environ.get("LENSMITH_SHARED", Path(__file__).parents[3] / "shared"))
PROMPTS = SHARED / "golden" / "prompts"
pytestmark = pytest.mark.skipif(not PROMPTS.is_dir(), reason=f"no golden data at {PROMPTS}; set LENSMITH_SHARED")

OURS = {
    "default": "v0",
    "v0": "v0",
    "v1": "vicuna_v1",
    "vicuna_v1": "vicuna_v1",
    "llama_2": "llama_2",
    "llava_v0": "llava_v0",
    "v0_mmtag": "v0_mmtag",
    "llava_v1": "llava_v1",
    "v1_mmtag": "v1_mmtag",
    "llava_llama_2": "llava_llama_2",
    "mistral_instruct": "mistral_instruct",
}
NOT_OURS = {
    "plain": "training writes its string itself, as our `plain` does (tokens/plain__*); this prompt is never used",
    "v0_plain": "another name of `plain`",
    "mpt": "of the MPT models, which are not of this line",
    "chatml_direct": "of LLaVA-1.6 34B; close to `chatml`, without line breaks between messages",
}
DEMO_ALONE = {
    "v0": "the demo looks for its picture in the first message, which is the seed's",
    "default": "as v0",
    "v0_mmtag": "the demo inserts two messages of its own for a picture",
    "v1_mmtag": "as v0_mmtag",
}
"""Templates that we do not compare where a message is the demo's `(text, image, mode)`."""


@lru_cache(maxsize=1)
def golden() -> dict[str, Any]:
    return dict(json.loads((PROMPTS / "templates.json").read_text()))


def conversation(name: str, **fields: Any) -> Conversation:
    component = discover().get(Kind.CONVERSATION, name)
    made: Conversation = component.load()(component.spec(**fields))
    return made


def said(segments: list[Segment]) -> str:
    literals = {"image": "<image>", "eos": "</s>"}
    return "".join(literals.get(segment.kind, segment.text) for segment in segments)


def turn_of(who: str, message: Any, first: bool) -> Turn:
    """A message of the golden lists; the demo's first one has its picture in front, as a row's would be."""
    role = "user" if who == "u" else "assistant"
    text = message[0] if isinstance(message, list) else message
    if isinstance(message, list) and first:
        if "<image>" not in text:
            return user_turn(text.strip(), 1)
        return parse_row({"image": "x", "conversations": [{"from": "human", "value": text}]}, number=0).turns[0]
    parts: list[str | None] = []
    for number, piece in enumerate(text.split("<image>")):
        parts += ([None] if number else []) + ([piece] if piece else [])
    return Turn(role, tuple(parts))  # type: ignore[arg-type]


def test_every_template_is_accounted_for() -> None:
    assert set(golden()["templates"]) == set(OURS) | set(NOT_OURS)
    assert len(golden()["messages"]) == 12


@pytest.mark.parametrize("name", OURS)
def test_prompts(name: str) -> None:
    stored = golden()["templates"][name]["prompts"]
    compact = {"form": "compact"} if golden()["templates"][name]["sep_style"] == "SINGLE" else {}
    checked = 0
    for key, messages in golden()["messages"].items():
        if key.startswith("tuple") and name in DEMO_ALONE:
            continue
        tags = "mmtag" in name and any("<image>" in (message or "") for _, message in messages)
        opened = messages[-1][1] is None
        written = messages[:-1] if opened else messages
        turns = [turn_of(who, message, number == 0) for number, (who, message) in enumerate(written)]
        # Rows are written as training writes them; closed prompts are compared in the form of questions.
        found = said(conversation(OURS[name], **({} if opened else compact)).render(turns, reply=opened))
        if tags:  # there a row's preprocessing writes them, which these lists have not seen
            found = found.replace("<Image><image></Image>", "<image>")
        assert found == stored[key], key
        checked += 1
    assert checked == (9 if name in DEMO_ALONE else 12)


def test_fields_are_those_of_the_original() -> None:
    for name, ours in OURS.items():
        assert conversation(ours).spec.system == golden()["templates"][name]["system"]  # type: ignore[attr-defined]


def test_plain_refuses_what_the_original_cannot_write() -> None:
    plain = conversation("plain")
    errors = [key for key, prompt in golden()["templates"]["plain"]["prompts"].items() if isinstance(prompt, dict)]
    assert len(errors) == 7
    for key in errors:
        messages = [m for m in golden()["messages"][key] if m[1] is not None]
        turns = [turn_of(who, message, number == 0) for number, (who, message) in enumerate(messages)]
        if key == "one_closed":  # a picture and a caption: what `plain` is for
            assert said(plain.render(turns)) == "<image>Hello.\n"
            continue
        with pytest.raises(ConversationError, match=r"one picture and one caption|shows none"):
            plain.render(turns)


@pytest.mark.parametrize("name", OURS)
def test_stops_are_the_demos(name: str) -> None:
    ours = conversation(OURS[name])
    stop = golden()["templates"][name]["stop_str_gradio"]
    if stop == "</s>":  # the end token ends an answer in any case, and is learnt
        assert ours.stop_strings() == ()
        turns = [Turn("user", ("Q",)), Turn("assistant", ("A",))]
        assert ours.render(turns)[-1] == Segment(kind="eos", supervised=True)
    else:
        assert ours.stop_strings() == (stop,)


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, HfTokenizer]:
    return {
        name: load_tokenizer(str(SHARED / "tokenizer" / name), parse_special_text=True)
        for name in ("vicuna_v1_5", "vicuna_v1_3", "fast_v1_5")
    }


def test_placeholders_and_special_tokens(tokenizers: dict[str, HfTokenizer]) -> None:
    records = json.loads((PROMPTS / "tokenizer_image_token.json").read_text())["records"]
    assert len(records) >= 28
    for record in records:
        segments: list[Segment] = []
        for number, piece in enumerate(record["text"].split("<image>")):
            segments += [Segment(kind="image")] * (number > 0) + [Segment(piece)]
        for name, tokenizer in tokenizers.items():
            encoded = encode(segments, tokenizer)
            assert encoded.ids == record[name], (name, record["text"])
            assert encoded.prompt == record["text"]


def test_stop_words_end_an_answer_at_the_same_id(tokenizers: dict[str, HfTokenizer]) -> None:
    tokenizer = tokenizers["vicuna_v1_5"]
    records = json.loads((PROMPTS / "stopping.json").read_text())["records"]
    assert len(records) == 64
    for record in records:
        ids, fired = record["gen_ids"], record["fired_after_k_tokens"]
        ends, stops = split_stops(GenerationOptions(stop=tuple(record["keywords"])), tokenizer)
        ended = [token in ends or stops.length(ids[: k + 1]) is not None for k, token in enumerate(ids)]
        if ids[-1] == tokenizer.eos_id and not any(fired):  # the end token ends ours whatever the words are
            assert ended.index(True) == len(ids) - 1
            continue
        # From there on there is nothing to compare: an answer has ended.
        first = fired.index(True) if True in fired else len(ids)
        assert ended[: first + 1] == fired[: first + 1], record


def test_the_page_of_deviations_names_tests_and_fields_that_exist() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "parity.md").read_text(encoding="utf-8")
    named = re.findall(r"tests/[\w/]+\.py", page)
    assert len(named) >= 10
    assert [path for path in named if not (root / path).is_file()] == []
    kinds = {"conversation": HumanAssistantSpec, "language_model": VicunaSpec}
    switches = re.findall(r"`(model|stage)\.([a-z_.]+)", page)
    assert len(switches) >= 15
    for where, path in switches:
        first, *rest = path.split(".")
        fields = (ModelSpec if where == "model" else StageSpec).model_fields
        assert first in fields, path
        if rest:
            owner = {**kinds, "data": DataSpec}[first].model_fields
            assert rest[0] in owner, path
            assert not rest[1:] or rest[1] in PicturePolicy.model_fields, path
