"""Every golden row of the original LLaVA code: its prompt, ids and labels are ours, or the reason stands here.

`golden/tokens` is of LLaVA 1.2.2 with transformers 4.37.2, `golden/tokens_v113` of LLaVA 1.1.3 with 4.31.0. Rows go the
way they go in training: `parse_row`, the conversation, `encode`, `truncate`. docs/parity.md tells the reasons to users.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from lensmith import Conversation, ConversationError, Kind, discover
from lensmith.data.encode import Encoded
from lensmith.data.rows import Row, RowError, parse_row
from lensmith.data.sample import encode_row, truncate
from lensmith_plugins.language_models.added_tokens import with_added_tokens
from lensmith_plugins.language_models.hf_tokenizer import HfTokenizer
from lensmith_plugins.language_models.tokenizer_loading import load_tokenizer

SHARED = Path(os.environ.get("LENSMITH_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = SHARED / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden data at {GOLDEN}; set LENSMITH_SHARED")

CONVERSATIONS = {"v0": "vicuna_v1", "v0.5": "vicuna_v1", "v1": "vicuna_v1", "no_such_version": "vicuna_v1"}
"""What `--version` of the original really trains with, where it is not what it says."""

TAGS = ("<im_start>", "<im_end>")

EQUAL = "prompt, ids and labels are equal"
REFUSED_BY_BOTH = "an error there and here"
LEARNT_HERE = "its labels are erased there ('tokenization mismatch'), its answers are learnt here"
NOTHING_TO_LEARN = "its labels are erased there, an error here: the only answer is empty"
PICTURES_DIFFER = "an error here: one picture, another number of <image>; there it takes a neighbour's features"
NOTHING_LEFT = "trained without a label there, an error here: the cut leaves nothing of an answer"

OTHERS: dict[str, dict[str, set[str]]] = {
    "v1": {
        REFUSED_BY_BOTH: {"err_two_humans", "err_system_role"},
        LEARNT_HERE: {
            "mt_odd_human_last",  # the last question has no answer: the answers before it are learnt
            "t_empty_question",  # an empty question moves the original's count of ids
            "q_role_sep",  # the user writes ' ASSISTANT: '
            "a_eos_literal",  # the answer spells </s>
            "a_unk_literal",  # the answer spells <unk>, the padding id
            "t_unk_literal",
        },
        NOTHING_TO_LEARN: {"a_empty"},
        PICTURES_DIFFER: {"q_two_images_two_turns", "q_image_key_no_token"},
    },
    "llama_2": {
        REFUSED_BY_BOTH: {"err_two_humans", "err_system_role", "t_empty_question"},
        LEARNT_HERE: {
            "mt_odd_human_last",
            "a_inst",  # the answer spells '[/INST] '
            "a_eos_literal",
            "a_unk_literal",
            "t_unk_literal",
        },
        NOTHING_TO_LEARN: {"a_empty"},
        PICTURES_DIFFER: {"q_two_images_two_turns", "q_image_key_no_token"},
    },
    # Only rows of one picture and one caption. That of two turns without a placeholder is an error in both.
    "plain": {REFUSED_BY_BOTH: {"not a caption"}},
    "###": {PICTURES_DIFFER: {"q_two_images_two_turns"}},
}
"""Rows that are not equal, by family of templates. Every other row must be."""
CUT_AT_96 = {"t_exact_long_user"}

_SEVEN = {EQUAL: 6, PICTURES_DIFFER: 1}
_V1 = {EQUAL: 31, REFUSED_BY_BOTH: 2, LEARNT_HERE: 6, NOTHING_TO_LEARN: 1, PICTURES_DIFFER: 2}
_LLAMA_2 = {EQUAL: 31, REFUSED_BY_BOTH: 3, LEARNT_HERE: 5, NOTHING_TO_LEARN: 1, PICTURES_DIFFER: 2}
_PLAIN = {EQUAL: 16, REFUSED_BY_BOTH: 26}
COUNTS: dict[str, dict[str, int]] = {
    "tokens/llama_2__vicuna_v1_5__len512": _SEVEN,
    "tokens/llava_llama_2__vicuna_v1_3__len2048": _LLAMA_2,
    "tokens/llava_llama_2__vicuna_v1_5__len2048": _LLAMA_2,
    "tokens/llava_llama_2__vicuna_v1_5__len512__startend": _SEVEN,
    "tokens/llava_llama_2__vicuna_v1_5__len96": {**_LLAMA_2, EQUAL: 30, NOTHING_LEFT: 1},
    "tokens/llava_v0__vicuna_v1_5__len512": _SEVEN,
    "tokens/llava_v1__vicuna_v1_5__len512": _SEVEN,
    "tokens/no_such_version__vicuna_v1_5__len512": _SEVEN,
    "tokens/plain__vicuna_v1_3__len2048": _PLAIN,
    "tokens/plain__vicuna_v1_5__len2048": _PLAIN,
    "tokens/plain__vicuna_v1_5__len512__startend": {EQUAL: 1, REFUSED_BY_BOTH: 6},
    "tokens/plain__vicuna_v1_5__len96": _PLAIN,
    "tokens/v0.5__vicuna_v1_5__len512": _SEVEN,
    "tokens/v0__vicuna_v1_5__len512": _SEVEN,
    "tokens/v0_mmtag__vicuna_v1_5__len512": _SEVEN,
    "tokens/v1__vicuna_v1_3__len2048": _V1,
    "tokens/v1__vicuna_v1_5__len2048": _V1,
    "tokens/v1__vicuna_v1_5__len512__startend": _SEVEN,
    "tokens/v1__vicuna_v1_5__len96": {**_V1, EQUAL: 30, NOTHING_LEFT: 1},
    "tokens/v1_mmtag__vicuna_v1_5__len512": _SEVEN,
    "tokens_v113/llava_llama_2__vicuna_v1_5__len2048": _LLAMA_2,
    "tokens_v113/plain__vicuna_v1_5__len2048": _PLAIN,
    "tokens_v113/v1__vicuna_v1_3__len2048": _V1,
    "tokens_v113/v1__vicuna_v1_5__len2048": _V1,
}


class GoldenFile:
    """One file: its records, and the conversation and tokenizer that say the same here."""

    def __init__(self, name: str) -> None:
        version, tokenizer, length, *rest = Path(name).name.split("__")
        self.version, self.max_length = version, int(length.removeprefix("len"))
        self.name = CONVERSATIONS.get(version, version)
        fields: dict[str, Any] = {}
        if self.family == "###":
            fields["labels"] = "original"
        if rest and self.family != "plain":  # `plain` writes nothing around a picture there either
            fields["image_tags"] = TAGS
        era = "transformers-4.31" if name.startswith("tokens_v113") else "auto"
        self.tokenizer = _tokenizer(tokenizer, era, TAGS if rest else ())
        self.conversation = conversation(self.name, **fields).bind(self.tokenizer)
        self.records = json.loads((GOLDEN / f"{name}.json").read_text())["records"]

    @property
    def family(self) -> str:
        """Which rule of the original makes the labels."""
        if self.name in ("llava_v0", "v0_mmtag"):
            return "###"
        return {"plain": "plain", "llama_2": "llama_2", "llava_llama_2": "llama_2"}.get(self.name, "v1")

    def expected(self, record: dict[str, Any]) -> str:
        """What the tables say of a row."""
        if self.family == "plain":
            return REFUSED_BY_BOTH if not _is_caption(record["id"]) else EQUAL
        if self.max_length == 96 and record["id"] in CUT_AT_96:
            return NOTHING_LEFT
        return next((reason for reason, ids in OTHERS[self.family].items() if record["id"] in ids), EQUAL)

    def encoded(self, row: Row) -> tuple[Encoded, Encoded]:
        """A row before and after the cut; the original counts a picture as one position there."""
        whole = encode_row(row, self.conversation, self.tokenizer)
        return whole, truncate(whole, [1] * len(row.images), self.max_length)


def conversation(name: str, **fields: Any) -> Conversation:
    component = discover().get(Kind.CONVERSATION, name)
    made: Conversation = component.load()(component.spec(**fields))
    return made


@lru_cache(maxsize=8)
def _tokenizer(name: str, era: Any, more: tuple[str, ...] = ()) -> HfTokenizer:
    """As the original reads it: special tokens in the data are parsed; with `more` tokens, as `add_tokens` has them."""
    if more:
        return with_added_tokens(_tokenizer(name, era), more, ())
    return load_tokenizer(str(SHARED / "tokenizer" / name), parse_special_text=True, tokenization=era)


@lru_cache(maxsize=1)
def cases() -> dict[str, Any]:
    return {case["id"]: case["sample"] for case in json.loads((GOLDEN / "tokens" / "cases.json").read_text())}


def _is_caption(identity: str) -> bool:
    sample = cases()[identity]
    first = sample["conversations"][0]
    return len(sample["conversations"]) == 2 and "image" in sample and "<image>" in first["value"]


def spans_of(record: dict[str, Any]) -> list[tuple[int, int]]:
    """Labels of the original after its collator's cut."""
    end = record["collated_len"]
    return [(start, min(stop, end)) for start, stop in record["target_spans"] if start < end]


def outcome(golden: GoldenFile, record: dict[str, Any]) -> str:
    """What becomes of a row here against there; fails where that is none of the reasons."""
    identity = record["id"]
    try:
        row = parse_row(cases()[identity], number=0)
        whole, cut = golden.encoded(row)
    except (RowError, ConversationError) as error:
        said = str(error)
        if record.get("error"):
            return REFUSED_BY_BOTH
        if "<image>" in said:
            assert same_with_as_many_pictures(golden, record)
            return PICTURES_DIFFER
        assert not spans_of(record), f"{identity}: {said}"
        assert "nothing to learn" in said
        return NOTHING_LEFT if record["mismatch"] is None else NOTHING_TO_LEARN
    assert not record.get("error"), f"{identity} is an error in the original"
    assert whole.prompt == record["prompt"]
    assert cut.ids == record["input_ids"][: record["collated_len"]], identity
    if record["mismatch"] is None:
        assert cut.supervised == spans_of(record), identity
        return EQUAL
    assert not record["target_spans"]
    answers = [turn for turn in row.turns if turn.role == "assistant" and turn.text]
    assert len(cut.supervised) == len(answers), identity
    assert [cut.ids[end - 1] for _, end in cut.supervised] == [golden.tokenizer.eos_id] * len(answers)
    return LEARNT_HERE


def same_with_as_many_pictures(golden: GoldenFile, record: dict[str, Any]) -> bool:
    """Whether a row is equal once it has a picture for each `<image>`."""
    sample = dict(cases()[record["id"]])
    wanted = sum("<image>" in message["value"] for message in sample["conversations"])
    sample["image"] = [sample["image"]] * wanted
    _, cut = golden.encoded(parse_row(sample, number=0))
    return cut.ids == record["input_ids"][: record["collated_len"]] and cut.supervised == spans_of(record)


def test_every_golden_file_is_in_the_table() -> None:
    found = {f"{folder}/{file.stem}" for folder in ("tokens", "tokens_v113") for file in (GOLDEN / folder).glob("*__*")}
    assert found == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_golden_file(name: str) -> None:
    golden = GoldenFile(name)
    found = {record["id"]: outcome(golden, record) for record in golden.records}
    assert found == {record["id"]: golden.expected(record) for record in golden.records}
    assert Counter(found.values()) == COUNTS[name]


@pytest.mark.parametrize("version", ["llava_v0", "v0_mmtag"])
def test_labels_of_the_first_templates_are_the_answers_by_default(version: str) -> None:
    golden = GoldenFile(f"tokens/{version}__vicuna_v1_5__len512")
    ours = conversation(version)
    for record in golden.records:
        if golden.expected(record) != EQUAL:
            continue
        row = parse_row(cases()[record["id"]], number=0)
        encoded = encode_row(row, ours, golden.tokenizer)
        assert (encoded.prompt, encoded.ids) == (record["prompt"], record["input_ids"])
        said = [golden.tokenizer.decode(encoded.ids[start:end]) for start, end in encoded.supervised]
        assert said == [f"{turn.text}\n###" for turn in row.turns if turn.role == "assistant" and turn.text]


def test_words_that_spell_special_tokens_are_all_that_parsing_changes() -> None:
    golden = GoldenFile("tokens/v1__vicuna_v1_5__len2048")
    careful = replace(golden.tokenizer, parse_special_text=False)
    changed = set()
    for record in golden.records:
        if golden.expected(record) not in (EQUAL, LEARNT_HERE):
            continue
        row = parse_row(cases()[record["id"]], number=0)
        ours, parsed = (encode_row(row, golden.conversation, t) for t in (careful, golden.tokenizer))
        if (ours.ids, ours.supervised) != (parsed.ids, parsed.supervised):
            changed.add(record["id"])
        answers = [turn.text for turn in row.turns if turn.role == "assistant" and turn.text]
        said = [careful.decode(ours.ids[start : end - 1]) for start, end in ours.supervised]
        assert said == answers, record["id"]
    assert changed == {"a_eos_literal", "a_unk_literal", "t_unk_literal"}


def test_labels_are_the_answers_with_the_fast_tokenizer_too() -> None:
    fast = replace(_tokenizer("fast_v1_5", "auto"), parse_special_text=False)
    v1 = conversation("vicuna_v1")
    checked = 0
    for sample in cases().values():
        try:
            row = parse_row(sample, number=0)
            encoded = encode_row(row, v1, fast)
        except RowError:
            continue
        answers = [turn.text for turn in row.turns if turn.role == "assistant" and turn.text]
        assert [fast.decode(encoded.ids[start : end - 1]) for start, end in encoded.supervised] == answers
        checked += 1
    assert checked == 37


def test_the_paper_time_differs_after_special_tokens_alone() -> None:
    now, then = (_tokenizer("vicuna_v1_5", era) for era in ("auto", "transformers-4.31"))
    assert now.encode("USER: hi", after="token").ids[:1] == (11889,)
    assert then.encode("USER: hi", after="token").ids[:2] == (3308, 1001)
    assert now.encode(" hi", after="token").ids != then.encode(" hi", after="token").ids
    old = _tokenizer("vicuna_v1_3", "transformers-4.31")
    for sample in cases().values():
        for message in sample["conversations"]:
            for after in ("start", "image"):
                text = message["value"].replace("</s>", "").replace("<unk>", "")
                assert now.encode(text, after=after) == then.encode(text, after=after)  # type: ignore[arg-type]
            legacy = _tokenizer("vicuna_v1_3", "auto").encode(message["value"], after="token")
            assert old.encode(message["value"], after="token") == legacy


def test_pictures_where_a_row_seldom_has_them() -> None:
    tokenizer = _tokenizer("vicuna_v1_5", "auto")
    v1 = conversation("vicuna_v1")

    def encoded(question: str, answer: str, **more: Any) -> Encoded:
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        return encode_row(parse_row({"conversations": turns, **more}, number=0), v1, tokenizer)

    answer = encoded("Draw a dog.", "Here:  <image>", image="x.png")
    start, end = answer.supervised[0]
    # In front of its turn, as everywhere; the space before it is the answer's.
    assert answer.ids[start:end] == [29871, -200, 29871, 13, 10605, 29901, 2]
    assert answer.prompt.endswith("ASSISTANT: <image>\nHere:</s>")
    turns = [{"from": "human", "value": "What does <image> mean?"}, {"from": "gpt", "value": "A picture."}]
    text = encode_row(parse_row({"conversations": turns}, number=0, missing_images="text"), v1, tokenizer)
    assert -200 not in text.ids
    assert "<image>" in tokenizer.decode(text.ids)
