"""What each template writes, what of it is learnt, and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from lensmith import Conversation, ConversationError, Kind, Segment, Turn, discover
from lensmith_plugins.conversations.chatml import ChatmlConversation
from lensmith_plugins.conversations.human_assistant import HumanAssistantConversation
from lensmith_plugins.conversations.llama2 import Llama2Conversation
from lensmith_plugins.conversations.plain import PlainConversation
from lensmith_plugins.conversations.specs import (
    ChatmlSpec,
    HumanAssistantSpec,
    Llama2Spec,
    LlavaV1Spec,
    MistralInstructSpec,
    PlainSpec,
    V0Spec,
    V1MmtagSpec,
    VicunaSpec,
)
from lensmith_plugins.conversations.vicuna import VicunaConversation

VICUNA = VicunaConversation(VicunaSpec(system="S"))
CHATML = ChatmlConversation(ChatmlSpec())
PLAIN = PlainConversation(PlainSpec())
LLAMA_2 = Llama2Conversation(Llama2Spec(system="S"))
MISTRAL = Llama2Conversation(MistralInstructSpec())
HASHES = HumanAssistantConversation(HumanAssistantSpec(system="S"))


def user(*parts: str | None) -> Turn:
    return Turn("user", parts)


def assistant(*parts: str | None) -> Turn:
    return Turn("assistant", parts)


def written(segments: list[Segment]) -> str:
    """The prompt, with what is learnt between braces."""
    text = ""
    for segment in segments:
        said = {"image": "<image>", "eos": "</s>"}.get(segment.kind, segment.text)
        text += "{" + said + "}" if segment.supervised else said
    return text.replace("}{", "")


SHORT = [user(None, "\nHi"), assistant("Hello."), user("And?"), assistant("Yes.")]


def test_vicuna() -> None:
    assert (
        written(VICUNA.render(SHORT)) == "S USER: <image>\nHi ASSISTANT:{ Hello.</s>}USER: And? ASSISTANT:{ Yes.</s>}"
    )
    assert VICUNA.render(SHORT[:2]) == [
        Segment("S USER: "),
        Segment(kind="image"),
        Segment("\nHi ASSISTANT:"),
        Segment(" Hello.", supervised=True),
        Segment(kind="eos", supervised=True),
    ]


def test_vicuna_open_reply_ends_without_a_space() -> None:
    assert written(VICUNA.render([user(None, "\nHi")], reply=True)) == "S USER: <image>\nHi ASSISTANT:"
    assert written(VICUNA.render(SHORT[:3], reply=True)).endswith("{ Hello.</s>}USER: And? ASSISTANT:")
    assert written(VICUNA.render([user("Hi")])) == "S USER: Hi "


def test_vicuna_default_system_is_the_original() -> None:
    text = VicunaConversation(VicunaSpec()).render([user("x")])[0].text
    assert text == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful,"
        " detailed, and polite answers to the user's questions. USER: x "
    )
    assert written(VicunaConversation(VicunaSpec(system="")).render([user("x")])) == "USER: x "


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([user("Q"), assistant("")], "S USER: Q ASSISTANT:"),
        ([user("Q"), assistant(""), user("R"), assistant("A")], "S USER: Q ASSISTANT:USER: R ASSISTANT:{ A</s>}"),
        ([user(""), assistant("A")], "S USER:ASSISTANT:{ A</s>}"),
        ([user(None), assistant("A")], "S USER: <image> ASSISTANT:{ A</s>}"),
        ([user("Q"), assistant(" ")], "S USER: Q ASSISTANT:{  </s>}"),
        ([user("Q"), assistant("", None)], "S USER: Q ASSISTANT:{ <image></s>}"),
    ],
)
def test_vicuna_empty_messages(turns: list[Turn], expected: str) -> None:
    assert written(VICUNA.render(turns)) == expected


def test_chatml() -> None:
    assert written(CHATML.render(SHORT)) == (
        "<|im_start|>user\n<image>\nHi<|im_end|>\n<|im_start|>assistant\n{Hello.<|im_end|>}\n"
        "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n{Yes.<|im_end|>}\n"
    )
    tokens = [segment.text for segment in CHATML.render(SHORT) if segment.kind == "token"]
    assert tokens == ["<|im_start|>", "<|im_end|>"] * 4
    with_system = ChatmlConversation(ChatmlSpec(system="Be kind."))
    assert written(with_system.render([user("Hi")], reply=True)) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert CHATML.stop_strings() == ("<|im_end|>",)


def test_chatml_learns_nothing_of_an_empty_answer() -> None:
    turns = [user("Q"), assistant(""), user("R"), assistant("A")]
    assert written(CHATML.render(turns)) == (
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"
        "<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n{A<|im_end|>}\n"
    )


def test_plain_drops_the_question_and_learns_the_rest() -> None:
    assert PLAIN.render([user(None, "\nDescribe it."), assistant("A red bus.")]) == [
        Segment(kind="image"),
        Segment("A red bus.\n", supervised=True),
    ]
    assert PLAIN.render([user("Describe ", None)], reply=True) == [Segment(kind="image")]
    assert written(PLAIN.render([user(None, None), assistant("Two.")])) == "<image><image>{Two.\n}"


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([user("Hi"), assistant("x")], "the user's turn shows none"),
        (SHORT, "not 4 turns; use `vicuna_v1`"),
        ([user(None)], "not 1 turns"),
    ],
)
def test_plain_refuses(turns: list[Turn], message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        PLAIN.render(turns)


def test_llama_2() -> None:
    assert written(LLAMA_2.render(SHORT)) == (
        "[INST] <<SYS>>\nS\n<</SYS>>\n\n<image>\nHi [/INST]{ Hello. </s>}<s>[INST] And? [/INST]{ Yes. </s>}"
    )
    assert [s.text for s in LLAMA_2.render(SHORT) if s.kind == "token"] == ["<s>"]
    assert written(LLAMA_2.render(SHORT[:3], reply=True)).endswith("{ Hello. </s>}<s>[INST] And? [/INST]")
    assert written(MISTRAL.render(SHORT)) == "[INST] <image>\nHi [/INST]{ Hello. </s>}[INST] And? [/INST]{ Yes. </s>}"


def test_llama_2_empty_messages() -> None:
    turns = [user("Q"), assistant(""), user("R"), assistant("A"), user(""), assistant("B")]
    assert written(MISTRAL.render(turns)) == "[INST] Q [/INST][INST] R [/INST]{ A </s> B </s>}"
    with pytest.raises(ConversationError, match="the first question is empty"):
        LLAMA_2.render([user(""), assistant("A")])


def test_human_assistant_rows_are_lines_and_questions_compact() -> None:
    assert written(HASHES.render(SHORT)) == (
        "S\n\n### Human: <image>\nHi\n### Assistant:{ Hello.\n###} Human: And?\n### Assistant:{ Yes.\n###} "
    )
    assert written(HASHES.render(SHORT[:3], reply=True)) == (
        "S###Human: <image>\nHi###Assistant:{ Hello.###}Human: And?###Assistant:"
    )
    assert HASHES.stop_strings() == ("###",)


def test_human_assistant_can_keep_to_one_form() -> None:
    lines = HumanAssistantConversation(HumanAssistantSpec(system="S", form="lines"))
    asked = written(lines.render(SHORT[:3], reply=True))
    assert asked.endswith("### Assistant:{ Hello.\n###} Human: And?\n### Assistant:")
    assert written(lines.render(SHORT)).startswith(asked)  # asked as it was trained
    compact = HumanAssistantConversation(HumanAssistantSpec(system="S", form="compact"))
    assert written(compact.render(SHORT)).startswith(written(compact.render(SHORT[:3], reply=True)))
    assert written(compact.render([user("Q"), assistant(""), user("R"), assistant("A")])) == (
        "S###Human: Q###Assistant:Human: R###Assistant:{ A###}"
    )
    bare = HumanAssistantConversation(HumanAssistantSpec(system=""))
    assert written(bare.render([user("Q"), assistant("")])) == "### Human: Q\n### Assistant: \n### "
    assert written(bare.render([user("Q")], reply=True)) == "Human: Q###Assistant:"


def test_the_seed_of_v0() -> None:
    seeded = HumanAssistantConversation(V0Spec())
    asked = written(seeded.render([user("Q")], reply=True))
    assert "Human: What are the key differences between renewable" in asked
    assert "{" not in asked
    assert written(seeded.render([user("Q"), assistant("A")])).count("###") == 3  # as the original: not in rows
    both = HumanAssistantConversation(V0Spec(form="lines")).render([user("Q"), assistant("A")])
    assert written(both).count("### Human:") == 2
    assert written(both).count("{") == 1
    plain = HumanAssistantConversation(V0Spec(seed=False, form="compact"))
    assert written(plain.render([user("Q"), assistant("A")])).endswith("questions.###Human: Q###Assistant:{ A###}")


def test_words_and_tokens_around_pictures() -> None:
    tagged = VicunaConversation(V1MmtagSpec(system=""))
    assert written(tagged.render(SHORT[:1])) == "USER: <Image><image></Image>\nHi "
    assert all(segment.kind != "token" for segment in tagged.render(SHORT))
    spec = LlavaV1Spec(system="", image_tags=("<im_start>", "<im_end>"))
    assert VicunaConversation(spec).render(SHORT[:1]) == [
        Segment("USER: "),
        Segment("<im_start>", kind="token"),
        Segment(kind="image"),
        Segment("<im_end>", kind="token"),
        Segment("\nHi "),
    ]
    shown = CHATML.render([user("Q"), assistant(None)])
    assert shown[-3] == Segment(kind="image", supervised=True)


def test_labels_of_the_original_need_a_tokenizer() -> None:
    drifting = HumanAssistantConversation(HumanAssistantSpec(labels="original"))
    with pytest.raises(ConversationError, match="bind the conversation to a tokenizer"):
        drifting.render(SHORT)
    assert drifting.render(SHORT[:1], reply=True)


ALL = [VICUNA, CHATML, PLAIN, LLAMA_2, HASHES]


@pytest.mark.parametrize("conversation", ALL, ids=["vicuna_v1", "chatml", "plain", "llama_2", "llava_v0"])
@pytest.mark.parametrize(
    ("turns", "reply", "message"),
    [
        ([], False, "has no turns"),
        ([assistant("x")], False, "turn 0 is the assistant's where the user's must stand"),
        ([user("a"), user("b")], False, "turn 1 is the user's where the assistant's must stand"),
        ([user(None), assistant("b")], True, "the last turn is the assistant's; a reply needs a question"),
    ],
)
def test_turns_out_of_order_are_refused(
    conversation: Conversation, turns: list[Turn], reply: bool, message: str
) -> None:
    with pytest.raises(ConversationError, match=message):
        conversation.render(turns, reply=reply)


def test_registered_names_build_their_class() -> None:
    registry = discover()
    ours = "lensmith_plugins.conversations."
    found = {c.name: c for c in registry.components(Kind.CONVERSATION) if c.implementation.startswith(ours)}
    assert len(found) == 12
    for component in found.values():
        conversation = component.load()(component.spec())
        assert isinstance(conversation, Conversation)
        assert component.spec.field_descriptions().keys() == component.spec.model_fields.keys()
        assert component.paper
        example = dict(yaml.safe_load(component.example))
        assert example.pop("name") == component.name
        component.spec(**example)
    assert [registry.get(Kind.LANGUAGE_MODEL, name).name for name in ("llama", "vicuna", "hf_causal")]
    default = registry.get(Kind.LANGUAGE_MODEL, "vicuna").spec(config="x").default_conversation()
    assert default in found


def test_templates_need_no_torch() -> None:
    code = (
        "import sys\n"
        "import lensmith_plugins.conversations.vicuna, lensmith_plugins.conversations.plain\n"
        "import lensmith_plugins.conversations.chatml, lensmith.data.encode\n"
        "import lensmith_plugins.conversations.human_assistant, lensmith_plugins.conversations.llama2\n"
        "import lensmith_plugins.conversations.tokenizer\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
