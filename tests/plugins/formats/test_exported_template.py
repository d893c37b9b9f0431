"""E3: an exported chat template makes the ids of `lensmith serve` for every form of messages, or refuses it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer

import lensmith
from lensmith import Conversation, LensmithError
from lensmith.interfaces.text import IMAGE_ID
from lensmith.testing import CHAT_TEMPLATE, tiny_tokenizer
from lensmith_plugins.conversations.chatml import ChatmlConversation
from lensmith_plugins.conversations.human_assistant import HumanAssistantConversation
from lensmith_plugins.conversations.llama2 import Llama2Conversation
from lensmith_plugins.conversations.plain import PlainConversation
from lensmith_plugins.conversations.specs import (
    ChatmlSpec,
    HumanAssistantSpec,
    Llama2Spec,
    MistralInstructSpec,
    PlainSpec,
    TokenizerSpec,
    V1MmtagSpec,
    VicunaSpec,
)
from lensmith_plugins.conversations.tokenizer import TokenizerConversation
from lensmith_plugins.conversations.vicuna import VicunaConversation
from lensmith_plugins.formats import hf_chat_template, template_check
from lensmith_plugins.formats.chat_template import derive, template
from lensmith_plugins.formats.hf_tokenizer_files import tokenizer_files
from lensmith_plugins.formats.template_check import FORMS, differences, served_ids
from lensmith_plugins.language_models.hf_tokenizer import HfTokenizer
from lensmith_plugins.language_models.tokenizer_loading import load_tokenizer

_found = importlib.util.spec_from_file_location(
    "chat_families", Path(__file__).parents[1] / "conversations" / "families.py"
)
assert _found is not None
assert _found.loader is not None
families: Any = importlib.util.module_from_spec(_found)
_found.loader.exec_module(families)

SPECIALS = ["<|User|>", "<|Assistant|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>"]
SPECIALS += ["<end_of_turn>", "</s>", "<s>", "<|begin_of_text|>"]
KEPT = (
    "QWEN3",
    "QWEN3_THINKING",
    "DEEPSEEK_R1",
    "DEEPSEEK_V3_1",
    "LLAMA_3_1",
    "GRANITE",
    "GEMMA_3",
    "SMOLLM_3",
    "PARTS",
)
CONVERSATIONS: dict[str, Conversation] = {
    "vicuna_v1": VicunaConversation(VicunaSpec()),
    "vicuna_v1 without a system text": VicunaConversation(VicunaSpec(system="")),
    "v1_mmtag": VicunaConversation(V1MmtagSpec()),
    "llama_2": Llama2Conversation(Llama2Spec()),
    "mistral": Llama2Conversation(MistralInstructSpec()),
    "compact": HumanAssistantConversation(HumanAssistantSpec(form="compact")),
    "chatml": ChatmlConversation(ChatmlSpec()),
    "chatml with tags": ChatmlConversation(ChatmlSpec(image_tags=("<start_of_turn>", "<end_of_turn>"))),
    **{name: TokenizerConversation(TokenizerSpec(template=getattr(families, name))) for name in KEPT},
}


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, HfTokenizer]:
    """A byte-level tokenizer with a BOS and one without."""
    found: dict[str | None, HfTokenizer] = {}
    for bos in (None, "<|begin_of_text|>"):
        folder = tmp_path_factory.mktemp("bytes")
        tiny_tokenizer(SPECIALS, chat_template=CHAT_TEMPLATE, bos=bos).save_pretrained(folder)
        found[bos] = load_tokenizer(str(folder))
    return found


def written(conversation: Conversation, own: HfTokenizer, folder: Path) -> tuple[Any, int] | None:
    """The tokenizer that transformers reads of an export, and the image token's id; None without a template."""
    files = tokenizer_files(own, "<image>", "LlavaProcessor")
    files.write(folder, own.source)
    if (words := derive(conversation, own)) is None:
        return None
    refused = [*own.specials, "<image>", files.config["pad_token"]]
    for bos in words.bos:
        (folder / "chat_template.jinja").write_text(template(words, "<image>", refused, bos))
        plain = AutoTokenizer.from_pretrained(folder)
        if not list(differences(_ids(plain), conversation, own, files.image_id)):
            break
    return plain, files.image_id


def _ids(plain: Any) -> Any:
    return lambda messages: plain.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]


@pytest.mark.parametrize("bos", [None, "<|begin_of_text|>"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_E3_every_form_of_messages(
    name: str, bos: str | None, byte_level: dict[str | None, HfTokenizer], tmp_path: Path
) -> None:
    own = byte_level[bos]
    conversation = CONVERSATIONS[name].bind(own)
    made = written(conversation, own, tmp_path)
    assert made is not None
    plain, image_id = made
    compared = 0
    for form, messages in FORMS.items():
        expected = served_ids(messages, conversation, own)
        try:
            found = _ids(plain)(messages)
        except TemplateError:
            continue
        assert expected is not None, form
        assert found == [image_id if index == IMAGE_ID else index for index in expected], form
        compared += 1
    assert compared >= 10


@pytest.mark.parametrize("folder", ["vicuna_v1_5", "vicuna_v1_3", "fast_v1_5"])
@pytest.mark.parametrize("name", ["vicuna_v1", "v1_mmtag", "llama_2", "mistral", "compact"])
def test_E3_sentencepiece(folder: str, name: str, shared: Path, tmp_path: Path) -> None:
    own = load_tokenizer(str(shared / "tokenizer" / folder))
    conversation = CONVERSATIONS[name].bind(own)
    made = written(conversation, own, tmp_path)
    assert made is not None
    assert list(differences(_ids(made[0]), conversation, own, made[1])) == []
    text = made[0].apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    # Only where a mark stands at the beginning alone does the template write the space behind BOS: the other two,
    # `legacy` and a tokenizer.json that prepends to every text, put a mark there themselves.
    assert text.startswith("<s> ") == (folder == "vicuna_v1_5")
    assert text.startswith("<s>")


def test_E3_what_cannot_be_expressed_is_refused(byte_level: dict[str | None, HfTokenizer], tmp_path: Path) -> None:
    own = byte_level[None]
    made = written(CONVERSATIONS["chatml"].bind(own), own, tmp_path)
    assert made is not None
    hi = {"role": "user", "content": "Hi"}
    called = {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}
    shown = {"role": "assistant", "content": [{"type": "image"}]}
    refused: list[tuple[str, list[dict[str, Any]], dict[str, Any]]] = [
        ("system, user and assistant alone", [hi, {"role": "tool", "content": "42"}], {}),
        (
            "system, user and assistant alone",
            [hi, called],
            {},
        ),
        ("without tools", [hi], {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("alternate", [hi, hi], {}),
        ("alternate", [{"role": "assistant", "content": "a"}], {}),
        ("a system message stands first", [hi, {"role": "system", "content": "b"}], {}),
        ("no message of the user", [{"role": "system", "content": "b"}], {}),
        ("a message is empty", [{"role": "user", "content": ""}], {}),
        ("part of type video", [{"role": "user", "content": [{"type": "video"}]}], {}),
        (
            "assistant message holds a part of type image",
            [hi, shown],
            {},
        ),
        ("would take for a token", [{"role": "user", "content": "a <image> b"}], {}),
        ("would take for a token", [{"role": "user", "content": [{"type": "text", "text": "<|im_end|>"}]}], {}),
        ("needs a question", [hi, {"role": "assistant", "content": "a"}], {"add_generation_prompt": True}),
    ]
    for told, messages, options in refused:
        with pytest.raises(TemplateError, match=told):
            made[0].apply_chat_template(messages, tokenize=False, **options)


def test_E3_no_place_for_a_system_text(byte_level: dict[str | None, HfTokenizer], tmp_path: Path) -> None:
    """Mistral's writes it into the last question: another place with each round."""
    own = byte_level[None]
    conversation = TokenizerConversation(
        TokenizerSpec(template=families.MISTRAL_V3, variables={"bos_token": "<s>", "eos_token": "</s>"})
    ).bind(own)
    made = written(conversation, own, tmp_path)
    assert made is not None
    with pytest.raises(TemplateError, match="no place for a system message"):
        _ids(made[0])(FORMS["a system message"])
    assert derive(PlainConversation(PlainSpec()), own) is None


def test_E3_answers_are_marked(byte_level: dict[str | None, HfTokenizer], tmp_path: Path) -> None:
    own = byte_level[None]
    made = written(CONVERSATIONS["vicuna_v1"].bind(own), own, tmp_path)
    assert made is not None
    talk = [*FORMS["two rounds"], {"role": "assistant", "content": "Yes."}]
    found = made[0].apply_chat_template(talk, return_dict=True, return_assistant_tokens_mask=True)
    learnt = [index for index, mask in zip(found["input_ids"], found["assistant_masks"], strict=True) if mask]
    assert made[0].decode(learnt) == f" Bern.{own.eos_token} Yes.{own.eos_token}"


def test_E3_an_answer_that_is_begun(byte_level: dict[str | None, HfTokenizer], tmp_path: Path) -> None:
    own = byte_level[None]
    conversation = CONVERSATIONS["chatml"].bind(own)
    made = written(conversation, own, tmp_path)
    assert made is not None
    begun = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The cat"}]
    text = made[0].apply_chat_template(begun, tokenize=False, continue_final_message=True)
    asked = made[0].apply_chat_template(begun[:1], tokenize=False, add_generation_prompt=True)
    assert text == f"{asked}The cat"


def test_E3_an_export_goes_through_the_processor(exported: Path, imported: Path) -> None:
    model = lensmith.load(imported)
    processor = AutoProcessor.from_pretrained(exported, backend="pil")
    picture = Image.new("RGB", (40, 30), (200, 0, 0))
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": [{"type": "text", "text": "First"}, {"type": "image", "image": picture}]},
    ]
    made = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    plain = [messages[0], {"role": "user", "content": [messages[1]["content"][0], {"type": "image"}]}]  # type: ignore[index]
    tokenizer = model.language_model.tokenizer
    expected = served_ids(plain, model.conversation, tokenizer)
    assert expected is not None
    tokens = 16
    found = [int(index) for index in made["input_ids"][0]]
    assert found == [i for index in expected for i in ([32000] * tokens if index == IMAGE_ID else [index])]


@pytest.mark.parametrize(
    ("positions", "images", "same"),
    [(1, 2, True), (1, 1, False), (1, 3, False), (3, 6, True), (3, 5, False), (3, 3, False)],
)
def test_E3_images_with_nothing_between(
    positions: int, images: int, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokenizers that drop line breaks leave nothing between two images; they are two all the same."""
    monkeypatch.setattr(template_check, "served_ids", lambda *_: [1, IMAGE_ID, IMAGE_ID, 2])
    unused: Any = None
    found = list(
        differences(lambda _: [1, *[9] * images, 2], unused, unused, 9, ["two pictures in a row"], positions=positions)
    )
    assert (not found) == same


def test_E3_the_export_compares_and_refuses(imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(*arguments: Any) -> str:
        return template(*arguments).replace("{{- piece -}}", "{{- piece | trim -}}{{- ' ' -}}")

    monkeypatch.setattr(hf_chat_template, "template", lossy)
    with pytest.raises(LensmithError, match=r"its chat template, .*, makes other ids than `lensmith serve`: "):
        lensmith.export(imported, tmp_path / "hf", to="hf")
    assert not (tmp_path / "hf").exists()
