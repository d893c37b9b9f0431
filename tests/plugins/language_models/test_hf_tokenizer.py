"""Every space where the model saw it in training, offsets that cover the text, and special tokens that stay text."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import AutoTokenizer

from lensmith_plugins.language_models.hf_tokenizer import HfTokenizer, SpacePrefix
from lensmith_plugins.language_models.specs import HfCausalSpec, LlamaSpec, VicunaSpec
from lensmith_plugins.language_models.tokenizer_loading import load_tokenizer

SHARED = Path(os.environ.get("LENSMITH_SHARED", Path(__file__).parents[4] / "shared"))
needs_vicuna = pytest.mark.skipif(
    not (SHARED / "tokenizer").is_dir(), reason=f"no Vicuna tokenizers at {SHARED / 'tokenizer'}"
)

FRAGMENTS = [" ", " ", "  ", "    ", "\n", "\t", "a", "the", " and", "12", "é", "東", "🗼", "▁", ".", "USER:", "ing"]
FRAGMENTS += ["</s>", "<s>", "<unk>", "<0x0A>", "\u200b", "\r\n", "_", "<|im_end|>"]


def texts(count: int) -> list[str]:
    chooser = random.Random(0)
    made = ["".join(chooser.choices(FRAGMENTS, k=chooser.randint(1, 20))) for _ in range(count)]
    return made + [" " * n + "x" + " " * n for n in range(40)]


def variant(source: Path, folder: Path, **config: Any) -> Path:
    """The same SentencePiece model with another `tokenizer_config.json`; None removes a key."""
    folder.mkdir()
    shutil.copyfile(source / "tokenizer.model", folder / "tokenizer.model")
    merged = {**json.loads((source / "tokenizer_config.json").read_text()), **config}
    merged = {key: value for key, value in merged.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(merged))
    return folder


def with_json(source: Path, folder: Path, **changes: Any) -> Path:
    """A folder that holds a `tokenizer.json`, with some of its sections replaced."""
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    file = folder / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def pieces(tokenizer: HfTokenizer, text: str, after: Any) -> list[str]:
    backend = tokenizer._backend()
    return [backend.id_to_token(token) for token in tokenizer.encode(text, after=after).ids]


def test_sentencepiece_ids_are_its_own(sentencepiece_folder: Path) -> None:
    tokenizer = load_tokenizer(str(sentencepiece_folder))
    model = sentencepiece.SentencePieceProcessor(str(sentencepiece_folder / "tokenizer.model"))
    for text in texts(300):
        assert list(tokenizer.encode(text, after="start").ids) == model.encode(text), repr(text)


@needs_vicuna
@pytest.mark.parametrize("name", ["vicuna_v1_5", "vicuna_v1_3", "fast_v1_5"])
def test_vicuna_ids_are_sentencepieces(name: str) -> None:
    tokenizer = load_tokenizer(str(SHARED / "tokenizer" / name))
    model = sentencepiece.SentencePieceProcessor(str(SHARED / "tokenizer" / "tokenizer.model"))
    for text in texts(500):
        assert list(tokenizer.encode(text, after="start").ids) == model.encode(text), repr(text)


@pytest.mark.parametrize("kind", ["sentencepiece", "bytelevel"])
def test_offsets_cover_the_text(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = load_tokenizer(str(request.getfixturevalue(f"{kind}_folder")), parse_special_text=True)
    for text in texts(200):
        for after in ("start", "image", "token"):
            encoded = tokenizer.encode(text, after=after)
            assert len(encoded.ids) == len(encoded.offsets)
            assert all(0 <= start <= end <= len(text) for start, end in encoded.offsets)
            covered = {place for start, end in encoded.offsets for place in range(start, end)}
            assert covered == set(range(len(text))), repr(text)
            assert list(encoded.offsets) == sorted(encoded.offsets, key=lambda span: span[1])


def test_the_prefix_of_a_new_text_covers_no_character(sentencepiece_folder: Path) -> None:
    tokenizer = load_tokenizer(str(sentencepiece_folder))
    encoded = tokenizer.encode("\nthe", after="image")
    assert pieces(tokenizer, "\nthe", "image")[:2] == ["▁", "<0x0A>"]
    assert encoded.offsets[:2] == ((0, 0), (0, 1))


def test_prefix_follows_what_stands_before(sentencepiece_folder: Path, tmp_path: Path) -> None:
    new = load_tokenizer(str(sentencepiece_folder))
    assert new.prefix == SpacePrefix("first")
    assert "".join(pieces(new, "the", "start")) == "".join(pieces(new, "the", "image")) == "▁the"
    assert "".join(pieces(new, "the", "token")) == "the"
    assert "".join(pieces(new, " USER", "start")) == "▁▁USER"  # a space of its own gets another

    for legacy in (True, None):
        folder = variant(sentencepiece_folder, tmp_path / f"legacy-{legacy}", legacy=legacy)
        old = load_tokenizer(str(folder))
        assert old.prefix == SpacePrefix("always")
        assert "".join(pieces(old, "the", "token")) == "▁the"


def test_prefix_of_transformers_4_31(sentencepiece_folder: Path, tmp_path: Path) -> None:
    then = load_tokenizer(str(sentencepiece_folder), tokenization="transformers-4.31")
    now = load_tokenizer(str(sentencepiece_folder))
    assert then.prefix == SpacePrefix("first", cuts=True)
    for text in texts(200):
        assert then.encode(text, after="start") == now.encode(text, after="start")
        assert then.encode(text, after="image") == now.encode(text, after="image")
        # The text with a space in front, cut where its first piece begins with one.
        whole = pieces(now, text, "start")
        cut = pieces(then, text, "token")
        if text.startswith((" ", "▁")):
            assert cut == whole
        elif whole[0] == "▁":
            assert cut == whole[1:]
        else:
            assert cut[1:] == whole[1:]
            assert cut[0] in (whole[0].removeprefix("▁"), "<unk>")
        offsets = then.encode(text, after="token").offsets
        assert {place for start, end in offsets for place in range(start, end)} == set(range(len(text)))
    old = variant(sentencepiece_folder, tmp_path / "old", legacy=None)
    assert load_tokenizer(str(old), tokenization="transformers-4.31").prefix == SpacePrefix("always")


def test_tokenizer_model_is_read_where_a_json_stands_beside_it(sentencepiece_folder: Path, tmp_path: Path) -> None:
    both = with_json(sentencepiece_folder, tmp_path / "both")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(sentencepiece_folder / name, both / name)
    assert load_tokenizer(str(both)).prefix == SpacePrefix("first", doubles=False)
    slow = load_tokenizer(str(both), tokenization="sentencepiece")
    expected = load_tokenizer(str(sentencepiece_folder))
    assert slow.prefix == expected.prefix == SpacePrefix("first")
    for text in texts(50):
        assert slow.encode(text, after="start") == expected.encode(text, after="start")
    out = tmp_path / "out"
    out.mkdir()
    slow.save(out)
    assert load_tokenizer(str(out), tokenization="sentencepiece").prefix == expected.prefix
    (both / "tokenizer.model").unlink()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.model.*or `tokenization: auto`"):
        load_tokenizer(str(both), tokenization="sentencepiece")


def test_a_spec_says_how_it_is_tokenised(sentencepiece_folder: Path) -> None:
    from lensmith_plugins.language_models.hf import HfCausalLanguageModel

    spec = VicunaSpec(config="x.json", tokenizer=str(sentencepiece_folder), tokenization="transformers-4.31")
    assert HfCausalLanguageModel.load_tokenizer(spec).prefix.cuts
    plain = HfCausalSpec(config="x.json", tokenizer=str(sentencepiece_folder))
    assert not HfCausalLanguageModel.load_tokenizer(plain).prefix.cuts


def test_special_tokens_that_a_template_wrote(sentencepiece_folder: Path, bytelevel_folder: Path) -> None:
    chat = load_tokenizer(str(bytelevel_folder))
    text = "<|im_start|>user\na<|im_end|><|im_end|>"
    assert chat.split_special(text) == [
        ("<|im_start|>", "<|im_start|>"),
        ("user\na", None),
        ("<|im_end|>", "<|im_end|>"),
        ("<|im_end|>", "<|im_end|>"),
    ]
    assert chat.split_special("") == []
    assert load_tokenizer(str(sentencepiece_folder)).split_special("a <|im_end|>") == [("a <|im_end|>", None)]
    assert pickle.loads(pickle.dumps(chat)).split_special(text) == chat.split_special(text)


@pytest.mark.parametrize("config", ["none", "model", "old class", "no bos key"])
def test_folders_as_llama_was_published(sentencepiece_folder: Path, tmp_path: Path, config: str) -> None:
    shutil.copyfile(sentencepiece_folder / "tokenizer.model", tmp_path / "tokenizer.model")
    if config == "model":
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    elif config != "none":
        name = "LLaMATokenizer" if config == "old class" else "LlamaTokenizer"
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.prefix == SpacePrefix("always")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.eos_token) == (1, 2, 0, "</s>")
    expected = load_tokenizer(str(sentencepiece_folder)).encode("the bus  is", after="start")
    assert tokenizer.encode("the bus  is", after="start") == expected


def test_prefix_of_a_tokenizer_json_is_what_it_says(sentencepiece_folder: Path, tmp_path: Path) -> None:
    metaspace = load_tokenizer(str(with_json(sentencepiece_folder, tmp_path / "metaspace")))
    assert metaspace.prefix == SpacePrefix("first", doubles=False)
    assert "".join(pieces(metaspace, " USER", "start")) == "▁USER"
    assert "".join(pieces(metaspace, "USER", "token")) == "USER"

    mark = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, mark]}
    old = load_tokenizer(
        str(with_json(sentencepiece_folder, tmp_path / "prepend", normalizer=prepend, pre_tokenizer=None))
    )
    assert old.prefix == SpacePrefix("always")
    assert "".join(pieces(old, "the", "token")) == "▁the"
    assert "".join(pieces(old, " USER", "start")) == "▁▁USER"

    older = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    oldest = load_tokenizer(str(with_json(sentencepiece_folder, tmp_path / "older", pre_tokenizer=older)))
    assert oldest.prefix == SpacePrefix("always", doubles=False)

    bare = load_tokenizer(str(with_json(sentencepiece_folder, tmp_path / "gemma", normalizer=mark, pre_tokenizer=None)))
    assert bare.prefix == SpacePrefix("never")
    assert "".join(pieces(bare, "USER", "start")) == "USER"


def test_byte_level_tokenizers_never_get_a_prefix(bytelevel_folder: Path) -> None:
    tokenizer = load_tokenizer(str(bytelevel_folder))
    plain = AutoTokenizer.from_pretrained(bytelevel_folder)
    for text in texts(100):
        if "<|" in text:
            continue
        for after in ("start", "image", "token"):
            assert list(tokenizer.encode(text, after=after).ids) == plain(text)["input_ids"]
    # Not trimmed, as the tokenizer's own template would: the space is part of what is supervised.
    assert tokenizer.encode(" the", after="token").offsets[0][0] == 0


def test_special_tokens_in_text_stay_text(sentencepiece_folder: Path, bytelevel_folder: Path) -> None:
    vicuna, chat = load_tokenizer(str(sentencepiece_folder)), load_tokenizer(str(bytelevel_folder))
    for tokenizer, text in ((vicuna, "stop</s>more<s> <unk>"), (chat, "a<|im_end|>b<|endoftext|>")):
        ids = tokenizer.encode(text, after="start").ids
        assert not set(ids) & {0, 1, 2}
        assert tokenizer.decode(ids) == text


def test_special_tokens_in_text_can_be_parsed(sentencepiece_folder: Path, tmp_path: Path) -> None:
    new = load_tokenizer(str(sentencepiece_folder), parse_special_text=True)
    encoded = new.encode("the</s>USER", after="start")
    place = encoded.ids.index(2)
    assert encoded.offsets[place] == (3, 7)
    assert pieces(new, "the</s>USER", "start")[place + 1 :] == pieces(new, "USER", "token")
    assert new.encode("</s>", after="start").ids == (2,)
    old = load_tokenizer(str(variant(sentencepiece_folder, tmp_path / "old", legacy=None)), parse_special_text=True)
    assert "".join(pieces(old, "a</s>the", "start")) == "▁a</s>▁the"


def test_ids_of_the_interface(sentencepiece_folder: Path, bytelevel_folder: Path, tmp_path: Path) -> None:
    vicuna, chat = load_tokenizer(str(sentencepiece_folder)), load_tokenizer(str(bytelevel_folder))
    assert (vicuna.bos_id, vicuna.eos_id, vicuna.eos_token, vicuna.pad_id) == (1, 2, "</s>", 0)
    assert (chat.bos_id, chat.eos_id, chat.eos_token, chat.pad_id) == (None, 2, "<|im_end|>", 0)
    assert (chat.token_id("<|im_start|>"), chat.token_id("the"), vicuna.token_id("<|im_start|>")) == (1, None, None)
    silent = variant(sentencepiece_folder, tmp_path / "silent", add_bos_token=False)
    assert load_tokenizer(str(silent)).bos_id is None
    padded = variant(sentencepiece_folder, tmp_path / "padded", pad_token="</s>")
    assert load_tokenizer(str(padded)).pad_id == 2
    config = json.loads((bytelevel_folder / "tokenizer_config.json").read_text())
    shutil.copytree(bytelevel_folder, tmp_path / "unpadded")
    del config["pad_token"]
    (tmp_path / "unpadded" / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(str(tmp_path / "unpadded")).pad_id == 2  # no unknown token either: the end token


def test_tokens_that_only_the_config_adds(sentencepiece_folder: Path, tmp_path: Path) -> None:
    extra = {
        "content": "<picture>",
        "special": True,
        "normalized": False,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
    }
    folder = variant(sentencepiece_folder, tmp_path / "extra", added_tokens_decoder={"320": extra})
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.token_id("<picture>") == 320
    assert 320 not in tokenizer.encode("a <picture>", after="start").ids
    assert tokenizer.decode([*tokenizer.encode("the", after="start").ids, 320]) == "the"


@pytest.mark.parametrize("kind", ["sentencepiece", "bytelevel"])
def test_decode_gives_the_text_back(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = load_tokenizer(str(request.getfixturevalue(f"{kind}_folder")))
    for text in texts(100):
        if "▁" in text and kind == "sentencepiece":
            continue  # SentencePiece writes spaces that way
        after = "start" if kind == "sentencepiece" else "token"
        ids = tokenizer.encode(text, after=after).ids
        assert tokenizer.decode([*ids, tokenizer.eos_id]) == text


@pytest.mark.parametrize("legacy", [False, True])
def test_saved_tokenizer_is_the_same(sentencepiece_folder: Path, tmp_path: Path, legacy: bool) -> None:
    source = variant(sentencepiece_folder, tmp_path / "source", legacy=legacy)
    (source / "model.safetensors").write_bytes(b"not a tokenizer's")
    (source / "tokenizer.model").chmod(0o444)
    tokenizer = load_tokenizer(str(source))
    out = tmp_path / "out"
    out.mkdir()
    tokenizer.save(out)
    assert sorted(path.name for path in out.iterdir()) == ["tokenizer.model", "tokenizer_config.json"]
    shutil.rmtree(source)
    again = load_tokenizer(str(out))
    for text in texts(50):
        for after in ("start", "token"):
            assert again.encode(text, after=after) == tokenizer.encode(text, after=after)
    with pytest.raises(FileNotFoundError, match=r"came from .*source"):
        tokenizer.save(out)


def _encode(tokenizer: HfTokenizer, text: str) -> object:
    return tokenizer.encode(text, after="start")


def test_workers_can_have_it(sentencepiece_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = load_tokenizer(str(sentencepiece_folder))
    expected = tokenizer.encode("the bus</s>", after="start")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("the bus</s>", after="start") == expected
    assert len(pickle.dumps(tokenizer)) < 2 * len(tokenizer.backend.encode()) + 5000  # no second copy of the backend
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.starmap(_encode, [(tokenizer, "the bus</s>")] * 4)
    assert found == [expected] * 4
    assert "parallelism" not in capfd.readouterr().err


def test_what_is_missing_is_said(tmp_path: Path, bytelevel_folder: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer.*set `model\.language_model\.tokenizer`"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.gguf does not exist"):
        load_tokenizer(str(tmp_path / "nowhere.gguf"))
    shutil.copytree(bytelevel_folder, tmp_path / "endless")
    config = json.loads((bytelevel_folder / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (tmp_path / "endless" / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="has no end token; add `eos_token`"):
        load_tokenizer(str(tmp_path / "endless"))


def test_where_a_spec_looks_for_its_tokenizer(tmp_path: Path) -> None:
    checkpoint, config, own = tmp_path / "checkpoint", tmp_path / "config" / "config.json", tmp_path / "own"
    config.parent.mkdir()
    config.write_text("{}")
    checkpoint.mkdir()
    assert LlamaSpec(config=config).tokenizer_source() == str(config.parent)
    assert LlamaSpec(checkpoint=str(checkpoint), config=config).tokenizer_source() == str(checkpoint)
    assert VicunaSpec(checkpoint="lmsys/vicuna-7b-v1.5").tokenizer_source() == "lmsys/vicuna-7b-v1.5"
    assert HfCausalSpec(checkpoint=str(checkpoint), tokenizer=str(own)).tokenizer_source() == str(own)
    file = tmp_path / "model.gguf"
    file.touch()
    assert LlamaSpec(checkpoint=str(file)).tokenizer_source() == str(file)
