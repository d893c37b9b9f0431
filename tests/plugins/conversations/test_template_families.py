"""D2, D3, D4, D12: templates of many families, rows of one round and more, and templates that lose words."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from lensmith import Conversation, ConversationError, Segment, Turn
from lensmith.data.encode import encode
from lensmith_plugins.conversations.specs import TokenizerSpec
from lensmith_plugins.conversations.tokenizer import TokenizerConversation
from lensmith_plugins.language_models.added_tokens import with_added_tokens
from lensmith_plugins.language_models.hf_tokenizer import HfTokenizer
from lensmith_plugins.language_models.tokenizer_loading import load_tokenizer

_found = importlib.util.spec_from_file_location("chat_families", Path(__file__).with_name("families.py"))
assert _found is not None
assert _found.loader is not None
families: Any = importlib.util.module_from_spec(_found)
_found.loader.exec_module(families)

NAMES = ("QWEN3", "QWEN3_THINKING", "DEEPSEEK_R1", "DEEPSEEK_V3_1", "LLAMA_3_1", "GRANITE", "MISTRAL_V3", "GEMMA_3")
NAMES += ("PARTS", "SMOLLM_3")
ENDS = {"GEMMA_3": "<end_of_turn>", "GRANITE": "<|endoftext|>", "LLAMA_3_1": "<|eot_id|>", "MISTRAL_V3": "</s>"}
ENDS |= {"DEEPSEEK_R1": "<|endoftext|>", "DEEPSEEK_V3_1": "<|endoftext|>"}
TALK = [
    Turn("user", (None, "\nWhat colour is it?")),
    Turn("assistant", ("It is Red.",)),
    Turn("user", ("And now?",)),
    Turn("assistant", ("red",)),
    Turn("user", (None, "\nThe other one?")),
    Turn("assistant", ("blue, I\nthink",)),
]
WORDS = ["It is Red.", "red", "blue, I\nthink"]
THOUGHT = "<think>\nThe sky is not.\n</think>\n\nred"


@pytest.fixture(scope="module")
def tokenizers(chat_folders: dict[str, Path]) -> dict[str, HfTokenizer]:
    own = with_added_tokens(load_tokenizer(str(chat_folders["llama_3"])), ["<|User|>", "<|Assistant|>"], [])
    sentence = load_tokenizer(str(chat_folders["mistral"]))
    return {name: sentence if name == "MISTRAL_V3" else own for name in (*NAMES, "GLM", "own")}


def bound(name: str, tokenizers: dict[str, HfTokenizer], template: str = "", **fields: Any) -> Conversation:
    spec = TokenizerSpec(template=template or getattr(families, name), **fields)
    return TokenizerConversation(spec).bind(tokenizers[name])


def learnt(segments: list[Segment]) -> list[str]:
    """What is learnt, answer by answer."""
    found, open_ = [], False
    for segment in segments:
        if segment.supervised:
            found = [*found[:-1], found[-1] + segment.text] if open_ else [*found, segment.text]
        open_ = segment.supervised
    return found


def said(segments: list[Segment]) -> str:
    return "".join("<image>" if segment.kind == "image" else segment.text for segment in segments)


@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_D2_answers_are_the_words_of_the_row(name: str, rounds: int, tokenizers: dict[str, HfTokenizer]) -> None:
    conversation = bound(name, tokenizers)
    end = ENDS.get(name, "<|im_end|>")
    row = conversation.render(TALK[: 2 * rounds])
    assert [text.strip() for text in learnt(row)] == [words + end for words in WORDS[:rounds]]
    # What is learnt last is what is asked for: the open question is how the row begins.
    asked = conversation.render(TALK[: 2 * rounds - 1], reply=True)
    assert said(row).startswith(said(asked))
    assert said(row)[len(said(asked)) :].strip().startswith(WORDS[rounds - 1] + end)
    assert "{" not in said(asked)
    assert all(not segment.supervised for segment in asked)


@pytest.mark.parametrize("name", ["QWEN3", "LLAMA_3_1", "GRANITE", "GEMMA_3", "MISTRAL_V3", "DEEPSEEK_V3_1"])
@pytest.mark.parametrize("system", ["", "Be kind."])
def test_D2_ids_are_those_of_transformers(
    name: str, system: str, tokenizers: dict[str, HfTokenizer], chat_folders: dict[str, Path]
) -> None:
    plain = AutoTokenizer.from_pretrained(chat_folders["mistral" if name == "MISTRAL_V3" else "llama_3"])
    plain.add_special_tokens({"additional_special_tokens": ["<|User|>", "<|Assistant|>"]})
    turns = [Turn(turn.role, (turn.text.strip(),)) for turn in TALK]
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": turn.role, "content": turn.text} for turn in turns]
    conversation = bound(name, tokenizers, system=system)
    for reply, number in ((False, 6), (False, 2), (True, 5), (True, 1)):
        held = messages[: number + bool(system)]
        if name == "MISTRAL_V3" and system and not reply:  # it writes a system text only before an open question
            with pytest.raises(ConversationError, match=r"the words of the system text: 'Be kind\."):
                conversation.render(turns[:number])
            continue
        text = plain.apply_chat_template(
            held,
            chat_template=getattr(families, name).replace("strftime_now('%B %d, %Y')", "'July 26, 2024'"),
            add_generation_prompt=reply,
            tokenize=False,
            enable_thinking=False,
            date_string="26 Jul 2024",
        )
        found = encode(conversation.render(turns[:number], reply=reply), tokenizers[name])
        assert found.ids == plain(text, add_special_tokens=False)["input_ids"]


def test_D2_rows_with_reasoning_keep_it(tokenizers: dict[str, HfTokenizer]) -> None:
    turns = [TALK[0], Turn("assistant", (THOUGHT,))]
    assert learnt(bound("QWEN3", tokenizers).render(turns)) == [f"{THOUGHT}<|im_end|>"]
    # Where the question begins the block, its beginning is not learnt.
    begun = learnt(bound("QWEN3_THINKING", tokenizers).render(turns))
    assert begun == ["The sky is not.\n</think>\n\nred<|im_end|>"]
    # In a later round, behind an answer without.
    later = [TALK[0], TALK[1], TALK[2], Turn("assistant", (THOUGHT,))]
    assert learnt(bound("QWEN3", tokenizers).render(later)) == ["It is Red.<|im_end|>", f"{THOUGHT}<|im_end|>"]
    # An empty block in the row says nothing.
    empty = [TALK[0], Turn("assistant", ("<think>\n\n</think>\n\nred",))]
    assert learnt(bound("QWEN3", tokenizers).render(empty)) == ["red<|im_end|>"]
    # A template that does not know reasoning writes it as the words that it is.
    plain = learnt(bound("LLAMA_3_1", tokenizers).render(turns))
    assert plain == [f"{THOUGHT}<|eot_id|>"]


def test_D2_reasoning_that_a_template_drops_is_told(tokenizers: dict[str, HfTokenizer]) -> None:
    earlier = [TALK[0], Turn("assistant", (THOUGHT,)), *TALK[2:4]]
    with pytest.raises(ConversationError, match=r"turn 1 \(the assistant's\): 'The sky is not.'; leave reasoning out"):
        bound("QWEN3", tokenizers).render(earlier)
    with pytest.raises(ConversationError, match=r"turn 1 .*'The sky is not\.'"):
        bound("DEEPSEEK_R1", tokenizers).render(earlier[:2])
    # A client may send it back: the template leaves it out of what is asked, and nothing is learnt of it.
    asked = said(bound("QWEN3", tokenizers).render(earlier[:3], reply=True))
    assert "The sky" not in asked
    assert "red<|im_end|>" in asked


def test_D2_reasoning_when_it_is_asked_for(tokenizers: dict[str, HfTokenizer]) -> None:
    asked = said(bound("QWEN3", tokenizers, reasoning=True).render(TALK[:1], reply=True))
    assert asked.endswith("<|im_start|>assistant\n")
    switched = said(bound("QWEN3", tokenizers, variables={"enable_thinking": True}).render(TALK[:1], reply=True))
    assert switched == asked


LOSSY = {
    "lower-cases": ("m['content']|lower", r"changes the case of turn 0 \(the user's\): 'What.* IT is"),
    "cuts": ("m['content'][:24]", r"keeps only .* of turn 1 \(the assistant's\)"),
    "cuts the beginning": ("m['content'][9:]", r"keeps only .* of turn 0"),
    "one line": ("m['content']|replace('\\n', ' ')", r"changes spaces or line breaks of turn 1"),
    "keeps what follows": ("m['content'].split('because')[-1]", r"keeps only .* of turn 1"),
    "drops": ("'words'", r"drops or changes the words of turn 0"),
    "translates": ("m['content']|replace('red', 'blue')", r"turn 1"),
    "parts of letters": ("m['content'][0]", r"turn 0"),
    "escapes": ("m['content']|escape", r"turn 1"),
    "last only": ("(m['content'] if loop.last else '…')", r"turn 0"),
    "questions only": ("(m['content'] if m['role'] == 'user' else 'yes')", r"turn 1"),
}
LOSSY_TALK = [
    Turn("user", ("What colour IT is?",)),
    Turn("assistant", ("It is red & blue,\nbecause it is painted so",)),
]


@pytest.mark.parametrize("how", LOSSY)
def test_D3_words_that_a_template_drops_or_changes(how: str, tokenizers: dict[str, HfTokenizer]) -> None:
    words, told = LOSSY[how]
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{{ " + words + " }}{{ '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    conversation = bound("own", tokenizers, template)
    with pytest.raises(ConversationError, match=told):
        conversation.render(LOSSY_TALK)
    problems = conversation.problems(tokenizers["own"])
    rare = how in ("keeps what follows", "translates")  # the words of the row decide
    assert rare or (len(problems) == 1 and "turn" in problems[0] and "`chatml`" in problems[0])


def test_D3_contents_as_parts(tokenizers: dict[str, HfTokenizer]) -> None:
    conversation = bound("PARTS", tokenizers, system="Be kind.")
    assert conversation.problems(tokenizers["own"]) == []
    assert said(conversation.render(TALK[:3], reply=True)) == (
        "<|im_start|>System: Be kind.<|im_end|>\nUser: <image>\nWhat colour is it?<|im_end|>\n"
        "Assistant: It is Red.<|im_end|>\nUser: And now?<|im_end|>\nAssistant:"
    )


@pytest.mark.parametrize(
    "skip", ["messages if m['role'] != 'system'", "(messages[1:] if messages[0].role == 'system' else messages)"]
)
def test_D3_a_system_text_that_is_left_out(skip: str, tokenizers: dict[str, HfTokenizer]) -> None:
    template = (
        "{% for m in " + skip + " %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    assert bound("own", tokenizers, template).problems(tokenizers["own"]) == []
    conversation = bound("own", tokenizers, template, system="Be kind.")
    for turns, reply in ((TALK[:2], False), (TALK[:1], True)):
        with pytest.raises(ConversationError, match=r"drops or changes the words of the system text: 'Be kind\."):
            conversation.render(turns, reply=reply)
    assert "the system text" in conversation.problems(tokenizers["own"])[0]
    with pytest.raises(ConversationError, match=r"the system text: 'Other\."):
        bound("own", tokenizers, template).with_system("Other.").render(TALK[:1], reply=True)


ENDLESS = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("template", [ENDLESS, MARKED, families.GLM], ids=["none", "outside the mark", "GLM"])
def test_D4_an_end_that_is_never_learnt(template: str, tokenizers: dict[str, HfTokenizer]) -> None:
    conversation = bound("own", tokenizers, template)
    with pytest.raises(ConversationError, match=r"no special token behind answer 1, or .* the field `stop`"):
        conversation.render(TALK[:2])
    assert "never learn to stop" in conversation.problems(tokenizers["own"])[0]
    assert not conversation.render(TALK[:1], reply=True)[-1].supervised  # it can be asked all the same


def test_D4_a_text_that_ends_answers(tokenizers: dict[str, HfTokenizer]) -> None:
    conversation = bound("own", tokenizers, ENDLESS, stop=["\n"])
    assert conversation.problems(tokenizers["own"]) == []
    assert learnt(conversation.render(TALK[:4])) == ["It is Red.\n", "red\n"]
    assert conversation.stop_strings() == ("\n",)
    with pytest.raises(ConversationError, match=r"none of `stop` \('###'\)"):
        bound("own", tokenizers, ENDLESS, stop=["###"]).render(TALK[:2])


@pytest.mark.parametrize("name", ["LLAMA_3_1", "GRANITE", "SMOLLM_3"])
def test_D12_the_day_is_the_specs(name: str, tokenizers: dict[str, HfTokenizer]) -> None:
    fixed = said(bound(name, tokenizers).render(TALK[:1], reply=True))
    assert "26" in fixed
    assert "2024" in fixed
    other = said(bound(name, tokenizers, date="2031-12-05").render(TALK[:1], reply=True))
    assert "2031" in other
    assert "2024" not in other.replace("April 2024", "")
    with pytest.raises(ValueError, match="is no day; write one like 2025-12-31"):
        TokenizerSpec(date="yesterday")


def test_D12_fields_without_effect_are_told(tokenizers: dict[str, HfTokenizer]) -> None:
    assert "writes no day" in bound("QWEN3", tokenizers, date="2031-12-05").problems(tokenizers["own"])[0]
    told = bound("QWEN3", tokenizers, variables={"enable_thinkng": False}).problems(tokenizers["own"])
    assert "reads no variable 'enable_thinkng' of `variables`; it reads " in told[0]
    assert "no switch for reasoning" in bound("GEMMA_3", tokenizers, reasoning=True).problems(tokenizers["own"])[0]
    for name in NAMES:
        assert bound(name, tokenizers).problems(tokenizers[name]) == []
