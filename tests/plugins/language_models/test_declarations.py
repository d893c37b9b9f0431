"""What a family declares: BOS, end and padding, context length and conversation, from its files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lensmith import Kind
from lensmith.spec.build import installed
from lensmith_plugins.language_models.hf import HfCausalLanguageModel
from lensmith_plugins.language_models.specs import HfCausalSpec, LlamaSpec, VicunaSpec

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
LLAMA_2 = "{% for m in messages %}[INST] <<SYS>>\n{{ m.content }}\n<</SYS>> [/INST]{% endfor %}"


def write_tokenizer_config(folder: Path, template: Any) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


@pytest.mark.parametrize(
    ("spec", "template", "expected"),
    [
        (VicunaSpec, None, "vicuna_v1"),
        (VicunaSpec, LLAMA_2, "vicuna_v1"),
        (LlamaSpec, None, "vicuna_v1"),
        (LlamaSpec, LLAMA_2, "llava_llama_2"),
        (LlamaSpec, CHATML, "tokenizer"),
        (HfCausalSpec, None, "vicuna_v1"),
        (HfCausalSpec, CHATML, "tokenizer"),
        (HfCausalSpec, LLAMA_2, "tokenizer"),
        (HfCausalSpec, [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}], "tokenizer"),
        (HfCausalSpec, [{"name": "tool_use", "template": "x"}], "vicuna_v1"),
    ],
)
def test_the_conversation_is_the_one_that_it_was_tuned_with(
    tmp_path: Path, spec: type[HfCausalSpec], template: Any, expected: str
) -> None:
    folder = write_tokenizer_config(tmp_path, template)
    assert spec(checkpoint=str(folder)).default_conversation() == expected
    assert expected in installed().names(Kind.CONVERSATION)


def test_a_template_in_a_file_of_its_own_comes_first(tmp_path: Path) -> None:
    folder = write_tokenizer_config(tmp_path, CHATML)
    (folder / "chat_template.jinja").write_text(LLAMA_2)
    assert LlamaSpec(checkpoint=str(folder)).default_conversation() == "llava_llama_2"


def test_a_tokenizer_that_is_not_here_has_no_template(tmp_path: Path) -> None:
    assert HfCausalSpec(checkpoint=str(tmp_path / "not-yet")).default_conversation() == "vicuna_v1"


def test_it_is_found_without_torch(tmp_path: Path) -> None:
    folder = write_tokenizer_config(tmp_path, CHATML)
    code = (
        "import sys\n"
        "from lensmith_plugins.language_models.specs import HfCausalSpec\n"
        f"assert HfCausalSpec(checkpoint={str(folder)!r}).default_conversation() == 'tokenizer'\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'jinja2'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_gguf_file_says_it_too(tmp_path: Path) -> None:
    import gguf

    file = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_chat_template(CHATML)
    writer.add_token_list(["a", "b", "c"])
    writer.add_vocab_size(3)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(80)
    writer.add_head_count(4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    spec = LlamaSpec(checkpoint=str(file), add_tokens=["<new>"])
    assert spec.default_conversation() == "tokenizer"
    shape = spec.shape()
    assert shape is not None
    assert (shape.vocabulary, shape.context_length) == (4, 64)


def test_a_spec_may_say_otherwise(tmp_path: Path, sentencepiece_folder: Path) -> None:
    """One place for all: `context_length` and `model.conversation` of a spec win over what is declared."""
    folder = shutil.copytree(sentencepiece_folder, tmp_path / "m")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 4096}))
    for spec, length in (
        (VicunaSpec(checkpoint=str(folder)), 4096),
        (VicunaSpec(config=folder, context_length=99), 99),
    ):
        shape = spec.shape()
        assert shape is not None
        assert shape.context_length == length
        tokenizer = HfCausalLanguageModel.load_tokenizer(spec)
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 0)


def test_padding_that_no_file_names_is_unknown_or_end(sentencepiece_folder: Path, bytelevel_folder: Path) -> None:
    llama = HfCausalLanguageModel.load_tokenizer(LlamaSpec(checkpoint="a/b", tokenizer=str(sentencepiece_folder)))
    assert (llama.bos_id, llama.eos_id, llama.pad_id) == (1, 2, 0)
    qwen = HfCausalLanguageModel.load_tokenizer(HfCausalSpec(checkpoint="a/b", tokenizer=str(bytelevel_folder)))
    assert (qwen.bos_id, qwen.eos_id, qwen.pad_id) == (None, 2, 0)
