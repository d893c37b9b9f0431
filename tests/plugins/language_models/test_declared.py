"""D5, D6, A6, A15, N2: tokenizers, ids and sizes that do not fit are told of by `check`, before anything is loaded."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lensmith.errors import LensmithError, SpecError
from lensmith.spec.build import load_spec
from lensmith.spec.check import check, checked
from lensmith_plugins.language_models.declared_tokenizer import declared_tokenizer
from lensmith_plugins.language_models.gguf_header import gguf_config
from lensmith_plugins.language_models.tokenizer_loading import load_tokenizer

WORDS = ["what does it mean colour s / < > red blue </s> [SEP] EOS end"] * 20


def told(spec: Any, *overrides: str) -> list[str]:
    """All problems of a spec, of its form or of what it names."""
    try:
        return [str(problem) for problem in check(load_spec(spec, overrides))]
    except SpecError as error:
        return [str(problem) for problem in error.problems]


def edit(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.fixture
def copied(spec: dict[str, Any], tiny_language_model: Path, tiny_encoder: Path, tmp_path: Path) -> dict[str, Any]:
    """The tiny spec with copies of its checkpoints, to be damaged."""
    shutil.copytree(tiny_language_model, tmp_path / "language")
    shutil.copytree(tiny_encoder, tmp_path / "encoder")
    spec["model"]["language_model"]["checkpoint"] = str(tmp_path / "language")
    spec["model"]["vision_encoder"]["checkpoint"] = str(tmp_path / "encoder")
    assert told(spec) == []
    return spec


def test_D5_tokens_without_embeddings(copied: dict[str, Any], tmp_path: Path) -> None:
    """ChatML's tokens behind the last row: the first step would end in an IndexError."""
    folder = tmp_path / "language"
    own = json.loads((folder / "tokenizer.json").read_text())
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    vocabulary = {token: index for token, index in own["model"]["vocab"].items() if not token.startswith("<|im_")}
    own["model"]["vocab"] = {token: n for n, token in enumerate(vocabulary)}
    own["added_tokens"] = [entry for entry in own["added_tokens"] if not entry["content"].startswith("<|im_")]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    for n, token in enumerate(("<|im_start|>", "<|im_end|>")):
        own["added_tokens"].append({"id": rows + n, "content": token, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(own))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("added_tokens_decoder", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    problems = told(copied)
    assert any(
        f"'<|im_start|>', whose id is {rows}, and the language model has {rows} embeddings" in p for p in problems
    )
    assert any(f"'<|im_end|>', whose id is {rows + 1}" in p for p in problems)
    with pytest.raises(SpecError, match="embeddings"):
        checked(copied)


def test_D5_a_tokenizer_of_a_larger_model(copied: dict[str, Any], tmp_path: Path) -> None:
    rows = json.loads((tmp_path / "language" / "config.json").read_text())["vocab_size"]
    edit(tmp_path / "language" / "config.json", vocab_size=rows - 40)
    problems = told(copied)
    assert f"makes ids up to {rows - 1} and the language model has {rows - 40} embeddings" in problems[0]


@pytest.mark.parametrize("field", ["eos_token", "pad_token"])
def test_D5_special_tokens_that_the_files_give_no_id(field: str, copied: dict[str, Any], tmp_path: Path) -> None:
    edit(tmp_path / "language" / "tokenizer_config.json", **{field: "<new>"})
    copied["model"]["conversation"] = "vicuna_v1"
    found = declared_tokenizer(str(tmp_path / "language"))
    assert found is not None
    assert found.added["<new>"] == load_tokenizer(str(tmp_path / "language")).added["<new>"]
    rows = json.loads((tmp_path / "language" / "config.json").read_text())["vocab_size"]
    assert any(f"whose id is {rows}" in problem for problem in told(copied)) == (field == "eos_token")


def test_D5_a_conversation_whose_tokens_the_tokenizer_has_not(copied: dict[str, Any]) -> None:
    copied["model"]["conversation"] = {"name": "chatml", "image_tags": ["<im_start>", "<im_end>"]}
    assert (
        "writes the special token '<im_start>', which the language model's tokenizer does not have" in told(copied)[0]
    )
    assert told(copied, 'model.language_model.add_tokens=["<im_start>", "<im_end>"]') == []


def test_D4_D3_check_tells_of_templates(copied: dict[str, Any], tmp_path: Path) -> None:
    def template(text: str) -> list[str]:
        return told({**copied, "model": {**copied["model"], "conversation": {"name": "tokenizer", "template": text}}})

    block = "{% for m in messages %}{{ m['role'] + ': ' + m['content']WORDS + END }}{% endfor %}"
    asked = block + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    assert template(asked.replace("WORDS", "").replace("END", "'<|im_end|>'")) == []
    assert "never learn to stop" in template(asked.replace("WORDS", "").replace("END", "'\\n'"))[0]
    assert "changes the case" in template(asked.replace("WORDS", ".lower()").replace("END", "'<|im_end|>'"))[0]
    assert "more than 512 MB" in template("{{ 'a' * 10**10 }}")[0]
    assert template("{{ 1 / 0 }}")[0].startswith("model.conversation: the tokenizer's chat template cannot express")


def _unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer, made.pre_tokenizer, made.decoder = (
        normalizers.NFKC(),
        pre_tokenizers.Metaspace(),
        decoders.Metaspace(),
    )
    specials = ["<unk>", "<s>", "</s>", "[SEP]", "EOS"]
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=specials, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(WORDS, trainer)
    return made


def _word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=120, special_tokens=["<unk>", "</s>", "[SEP]", "EOS"], show_progress=False
    )
    made.train_from_iterator(WORDS, trainer)
    return made


def _word_level() -> Tokenizer:
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>", "</s>", "[SEP]", "EOS"], show_progress=False)
    made.train_from_iterator(WORDS, trainer)
    return made


def _whole_words() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "</s>", "[SEP]", "EOS"], show_progress=False)
    made.train_from_iterator(WORDS, trainer)
    return made


def _byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<unk>", "</s>", "[SEP]", "EOS"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(WORDS, trainer)
    return made


@pytest.mark.parametrize("make", [_unigram, _word_piece, _word_level, _whole_words, _byte_level])
def test_D6_special_tokens_that_a_user_writes_stay_text(make: Callable[[], Tokenizer], tmp_path: Path) -> None:
    fast = PreTrainedTokenizerFast(
        tokenizer_object=make(), eos_token="</s>", unk_token="<unk>", sep_token="[SEP]", bos_token="EOS"
    )
    fast.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    special = {tokenizer.added[token] for token in tokenizer.specials} - {tokenizer.unk_id}
    texts = [
        "what does </s> mean",
        "</s>",
        "</s></s>",
        "a</s>b",
        " </s> ",
        "[SEP]",
        "EOS",
        "x EOS\n",
        "\uff1c/s\uff1e red",
    ]
    for text in texts:
        for after in ("start", "image", "token"):
            pieces = tokenizer.encode(text, after=after)
            assert not special & set(pieces.ids), text
            assert len(pieces.ids) == len(pieces.offsets) > 0
            assert [a for a, _ in pieces.offsets] == sorted(a for a, _ in pieces.offsets)
            assert max(b for _, b in pieces.offsets) <= len(text)
    literal = tokenizer.encode("what <unk> is", after="start")
    assert all(text != "<unk>" for text in ("what <unk> is"[a:b] for a, b in literal.offsets))
    parsed = load_tokenizer(str(tmp_path), parse_special_text=True).encode("red </s>", after="start")
    assert parsed.ids[-1] == tokenizer.eos_id


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.language_model.tokenizer=nope", "does not exist"),
        ("model.language_model.tokenizer=.", "holds no tokenizer"),
        ("model.language_model.attention=bogus", "'bogus' is no attention implementation"),
        ("model.language_model.attention=kernels-community/flash-attn", "is no attention implementation"),
        ("model.language_model.config=nope", "does not exist"),
        ("model.vision_encoder.config=nope", "does not exist"),
        ("model.connector.checkpoint=.", "name the file of the projector in it"),
        ("model.connector.checkpoint=nope.bin", "does not exist"),
    ],
)
def test_A6_what_is_not_there_is_told_by_check(
    override: str, expected: str, spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    problems = told(spec, override)
    assert len(problems) == 1
    assert expected in problems[0]
    assert override.split("=")[0].rpartition(".")[0] in problems[0]


def test_A6_weights_without_a_tokenizer(copied: dict[str, Any], tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "language" / name).unlink()
    assert "holds no tokenizer" in told(copied)[0]


def test_A6_check_imports_neither_torch_nor_transformers(copied: dict[str, Any], tmp_path: Path) -> None:
    copied["model"]["conversation"] = "tokenizer"
    (tmp_path / "language" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (tmp_path / "run.json").write_text(json.dumps(copied))
    code = (
        "import sys; from lensmith.spec.check import check; from lensmith.spec.build import load_spec;"
        f"print(*check(load_spec({str(tmp_path / 'run.json')!r})));"
        "assert not {'torch', 'transformers', 'tokenizers'} & sys.modules.keys()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "model.conversation: the chat template of the tokenizer" in result.stdout


SIZES: list[tuple[str, Any]] = [
    ("num_hidden_layers", 1_000_000),
    ("num_attention_heads", 0),
    ("hidden_size", -32),
    ("hidden_size", True),
    ("hidden_size", float("nan")),
    ("hidden_size", 32.5),
    ("hidden_size", "32"),
    ("hidden_size", 10**12),
    ("vocab_size", 0),
    ("vocab_size", 2**60),
    ("intermediate_size", None),
    ("max_position_embeddings", -1),
    ("num_key_value_heads", 3),
    ("rms_norm_eps", float("nan")),
    ("text_config", [1]),
]


@pytest.mark.parametrize(("field", "value"), SIZES)
def test_A15_a_language_models_config_with_absurd_sizes(
    field: str, value: Any, copied: dict[str, Any], tmp_path: Path
) -> None:
    edit(tmp_path / "language" / "config.json", **{field: value})
    start = time.process_time()
    problems = told(copied)
    assert time.process_time() - start < 5
    assert len(problems) == 1
    assert field in problems[0]
    assert "config.json" in problems[0]
    assert "\n" not in problems[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_hidden_layers", 10**6), ("num_attention_heads", 0), ("hidden_size", True), ("image_size", 32.5)],
)
def test_A15_an_encoders_config_with_absurd_sizes(
    field: str, value: Any, copied: dict[str, Any], tmp_path: Path
) -> None:
    edit(tmp_path / "encoder" / "config.json", **{field: value})
    problems = told(copied)
    assert len(problems) == 1
    assert field in problems[0]


def _gguf(keys: int, tensors: int, body: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + body


def _key(name: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (_gguf(1, 0, _key("a", 9, struct.pack("<IQ", 4, 2**40))), r"field 'a' promises 1,099,511,627,776"),
        (_gguf(1, 0, _key("a", 9, struct.pack("<IQ", 8, 2**40))), "field 'a' promises"),
        (_gguf(1, 0, _key("a", 9, struct.pack("<IQ", 9, 2**40))), "field 'a' promises"),
        (_gguf(2**60, 0, b""), "number of keys promises"),
        (_gguf(0, 2**60, b""), "number of tensors promises"),
        (_gguf(1, 0, struct.pack("<Q", 2**62) + b"a" * 20), "a key promises"),
        (_gguf(1, 0, _key("a", 77, b"1234")), "of the type 77"),
        (_gguf(3, 0, b"\0" * 40), "GGUF"),
        (b"GGUF", "ends within its header"),
        (b"GGUF\0\0\0\x63" + b"\0" * 40, "version"),
        (b"not one", "begins with"),
        (b"", "begins with"),
    ],
)
def test_A15_a_gguf_header_that_promises_too_much(content: bytes, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    start = time.process_time()
    with pytest.raises(ValueError, match=expected) as caught:
        gguf_config(file)
    assert time.process_time() - start < 5
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("entry", ["../outside.safetensors", "/etc/passwd", "a/../../b.bin", "c:\\x", "", 5])
@pytest.mark.parametrize("part", ["language_model", "vision_encoder"])
def test_A15_an_index_that_leads_out_of_its_folder(
    part: str, entry: Any, copied: dict[str, Any], tmp_path: Path
) -> None:
    from lensmith import assemble

    folder = tmp_path / ("language" if part == "language_model" else "encoder")
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": entry}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LensmithError, match=r"model\.safetensors\.index\.json: weight_map names"):
        assemble(copied)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x80\x04N."])
@pytest.mark.parametrize("part", ["language_model", "vision_encoder"])
def test_A15_weights_that_are_none(
    part: str, name: str, content: bytes, copied: dict[str, Any], tmp_path: Path
) -> None:
    from lensmith import assemble

    folder = tmp_path / ("language" if part == "language_model" else "encoder")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(LensmithError) as caught:
        assemble(copied)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_N2_another_checkpoint_drops_the_sizes_of_the_one_before(
    tiny_encoder: Path, tiny_language_model: Path, tmp_path: Path
) -> None:
    spec = load_spec("llava-1.5-7b", [f"model.vision_encoder.checkpoint={tiny_encoder}"])
    assert getattr(spec.model.vision_encoder, "config", 0) is None
    shape = spec.model.vision_encoder.shape()
    assert shape is not None
    assert shape.width == 32
    both = load_spec(
        "llava-1.5-7b",
        [
            f"model.language_model.config={tiny_language_model}",
            f"model.language_model.checkpoint={tiny_language_model}",
        ],
    )
    assert str(getattr(both.model.language_model, "config", "")) == str(tiny_language_model)
    child = tmp_path / "child.yaml"
    child.write_text(f"extends: llava-1.5-7b\nmodel:\n  language_model:\n    checkpoint: {tiny_language_model}\n")
    shape = load_spec(child).model.language_model.shape()
    assert shape is not None
    assert shape.width == 32
    # The same checkpoint again keeps what was said of it.
    same = load_spec("llava-1.5-7b", ["model.language_model.checkpoint=lmsys/vicuna-7b-v1.5"])
    assert getattr(same.model.language_model, "config", None) is not None
    # Without a checkpoint the sizes are those of random weights.
    fresh = load_spec("llava-1.5-7b", ["model.language_model.checkpoint=null"])
    assert fresh.model.language_model.fresh()
    assert getattr(fresh.model.language_model, "config", None) is not None


@pytest.mark.parametrize("part", ["vision_encoder", "language_model"])
def test_N2_a_path_that_is_not_there_is_an_error(part: str) -> None:
    problems = told("llava-1.5-7b", f"model.{part}.checkpoint=/nowhere/model")
    assert any(problem.startswith(f"model.{part}") and "/nowhere/model" in problem for problem in problems)
    # Also where the sizes are said again.
    source = "configs/vicuna-7b-v1.5.json" if part == "language_model" else "configs/clip-vit-large-patch14-336.json"
    from lensmith_plugins import recipes

    config = Path(str(recipes.__file__)).parent / source
    problems = told("llava-1.5-7b", f"model.{part}.checkpoint=/nowhere/model", f"model.{part}.config={config}")
    assert any(problem.startswith(f"model.{part}: /nowhere/model does not exist") for problem in problems)


def test_N2_sizes_of_another_model_are_held_against_the_checkpoint(copied: dict[str, Any], tmp_path: Path) -> None:
    for part, folder in (("language_model", "language"), ("vision_encoder", "encoder")):
        config = json.loads((tmp_path / folder / "config.json").read_text())
        other = tmp_path / f"{folder}.json"
        other.write_text(json.dumps({**config, "intermediate_size": 96}))
        problems = told(copied, f"model.{part}.config={other}")
        assert len(problems) == 1
        assert "`config` says intermediate_size 96 and the checkpoint" in problems[0]
