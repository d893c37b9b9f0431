"""What plain transformers makes of an export: the same ids, pixels, logits and answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
)

import lensmith
from lensmith import LensmithError, SpecError
from lensmith.conversion.probes import probes
from lensmith_plugins.formats.hf_tokenizer_files import tokenizer_files
from lensmith_plugins.formats.slow_tokenizer import slow_tokenizer
from lensmith_plugins.language_models.tokenizer_loading import load_tokenizer

from .conftest import same, weights_of


@pytest.mark.parametrize("backend", ["pil", None])
def test_the_recorded_answer(exported: Path, golden_model: Path, shared: Path, backend: str | None) -> None:
    """Picture and prompt in, through the export's own processor: ids and greedy answer of the original code.

    By both backends of the processor: `pil` computes what was trained, the default one is near.
    """
    from PIL import Image

    record = json.loads((golden_model / "meta.json").read_text())["generation_mlp2x_gelu"]["img_beams1"]
    processor = AutoProcessor.from_pretrained(exported, **({"backend": backend} if backend else {}))
    model = LlavaForConditionalGeneration.from_pretrained(exported)
    picture = Image.open(shared / "golden/images/inputs/rgb_100x60.png").convert("RGB")
    inputs = processor(text="USER: <image>\nWhat color? ASSISTANT:", images=picture, return_tensors="pt")
    expected = [token for given in record["input_ids"] for token in ([32000] * 16 if given == -200 else [given])]
    assert inputs["input_ids"][0].tolist() == expected
    if backend == "pil":
        stored = load_file(shared / "golden/images/pixel_values_square_pad.safetensors")["pad/rgb_100x60.png"]
        torch.testing.assert_close(inputs["pixel_values"][0], stored, rtol=0, atol=0)
    with torch.inference_mode():
        made = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0, len(expected) :]
    assert made.tolist() == record["output_ids"][1:]


def test_the_chat_template_writes_the_prompt(exported: Path, imported: Path) -> None:
    processor = AutoProcessor.from_pretrained(exported)
    model = lensmith.load(imported)
    for probe in probes(model, 3):
        words = probe.prompt.partition("USER: ")[2].removeprefix("<image>\n").removesuffix(" ASSISTANT:")
        content: list[dict[str, str]] = [{"type": "image"}] * len(probe.pictures) + [{"type": "text", "text": words}]
        turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
        # Nobody adds BOS to what a template writes; behind it LLaMA's tokenizer needs the space that begins a text.
        assert processor.apply_chat_template(turns, add_generation_prompt=True) == f"<s> {probe.prompt}"
    turns += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "why?"}]
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    assert text == f"<s> {probe.prompt} yes</s>USER: why? ASSISTANT:"
    closed = processor.apply_chat_template(turns[:2])
    assert closed == f"<s> {probe.prompt} yes</s>"


def test_the_original_reads_sentencepiece(exported: Path, imported: Path, tmp_path: Path) -> None:
    """A tokenizer that came with a tokenizer.json is written so that slow classes read it to the same ids."""
    files = tmp_path / "files"
    files.mkdir()
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(exported / name, files / name)
    (tmp_path / "slow").mkdir()
    assert slow_tokenizer(files, tmp_path / "slow") == []
    assert not (tmp_path / "slow" / "tokenizer.json").exists()
    ours, theirs = (load_tokenizer(str(folder)) for folder in (imported / "tokenizer", tmp_path / "slow"))
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_id, theirs.eos_id) == (1, 2)
    for text in ("USER: what  is it?", " two", "\nWhat"):
        for after in ("start", "image", "token"):
            assert ours.encode(text, after=after).ids == theirs.encode(text, after=after).ids


@pytest.mark.parametrize("name", ["vicuna_v1_5", "vicuna_v1_3"])
def test_ids_around_pictures(shared: Path, tmp_path: Path, name: str) -> None:
    """Those that the original makes of prompts; it tokenises each text around a picture on its own."""
    own = load_tokenizer(str(shared / "tokenizer" / name))
    tokenizer_files(own, "<image>", "LlavaProcessor").write(tmp_path, own.source)
    files = AutoTokenizer.from_pretrained(tmp_path)
    records = json.loads((shared / "golden/prompts/tokenizer_image_token.json").read_text())["records"]
    compared = [record for record in records if not record["text"].startswith((" ", "▁"))]
    assert len(compared) > 0.8 * len(records)
    for record in compared:
        expected = [32000 if token == -200 else token for token in record[name]]
        assert files(record["text"])["input_ids"] == expected, record["text"]
    assert (files.pad_token_id, files.convert_tokens_to_ids("<image>")) == (32001, 32000)


def test_config_as_servers_read_it(exported: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["LlavaForConditionalGeneration"], "llava")
    assert (config["image_token_index"], config["pad_token_id"]) == (32000, 32001)
    assert config["text_config"]["vocab_size"] == 32064
    assert (config["text_config"]["rope_theta"], config["torch_dtype"]) == (10000.0, "float32")
    assert (config["vision_feature_layer"], config["vision_feature_select_strategy"]) == (-2, "default")
    processor = json.loads((exported / "processor_config.json").read_text())
    assert (processor["patch_size"], processor["num_additional_image_tokens"]) == (14, 1)
    pictures = json.loads((exported / "preprocessor_config.json").read_text())
    assert (pictures["image_processor_type"], pictures["do_pad"]) == ("LlavaImageProcessor", True)
    names = load_file(exported / "model.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"language_model", "vision_tower", "multi_modal_projector"}
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in names
    assert "vision_tower.vision_model.encoder.layers.3.mlp.fc1.weight" in names  # past the selected layer too


@pytest.fixture(scope="module")
def small(exported: Path, words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export with a tokenizer that is read in no time."""
    folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("small") / "hf"))
    (folder / "tokenizer.model").unlink()
    for file in words.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


@pytest.mark.parametrize("names", ["4.52", "5"])
def test_names_of_every_version(small: Path, tmp_path: Path, names: str) -> None:
    source = Path(shutil.copytree(small, tmp_path / "source"))
    renamed = {_newer(name, names): tensor for name, tensor in load_file(source / "model.safetensors").items()}
    assert not renamed.keys() & load_file(small / "model.safetensors").keys()
    save_file(renamed, source / "model.safetensors", metadata={"format": "pt"})
    first = lensmith.import_checkpoint(source, tmp_path / "first").folder
    assert same(weights_of(first), weights_of(lensmith.import_checkpoint(small, tmp_path / "plain").folder))


def test_round_trips_are_bit_exact(small: Path, exported: Path, imported: Path, tower: Path, tmp_path: Path) -> None:
    """transformers → artifact → original → artifact → transformers."""
    first = lensmith.import_checkpoint(small, tmp_path / "first").folder
    lensmith.export(first, tmp_path / "original", to="llava", options=[f"vision_tower={tower}"])
    second = lensmith.import_checkpoint(tmp_path / "original", tmp_path / "second").folder
    assert same(weights_of(first), weights_of(second))
    lensmith.export(second, tmp_path / "again", to="hf")
    assert same(load_file(exported / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors"))
    grown = weights_of(first)
    for name, tensor in weights_of(imported).items():
        assert torch.equal(tensor, grown[name][: len(tensor)]), name


def _newer(name: str, version: str) -> str:
    if name.startswith("language_model.lm_head"):
        return name.removeprefix("language_model.")
    name = name.replace("language_model.model.", "language_model.")
    if version == "5":
        name = name.replace("vision_tower.vision_model.", "vision_tower.")
    return f"model.{name}"


GRIDS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]


def test_tiles_become_llava_next(original: Any, shared: Path, tmp_path: Path) -> None:
    """The export compares the logits of a broad and a tall picture itself; it reads back to the same artifact."""
    changes = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": GRIDS, "mm_patch_merge_type": "spatial_unpad"}
    artifact = lensmith.import_checkpoint(original(**changes), tmp_path / "artifact").folder
    done = lensmith.export(artifact, tmp_path / "hf", to="hf")
    assert done is not None
    assert done.difference < 1e-5
    LlavaNextForConditionalGeneration.from_pretrained(tmp_path / "hf")
    again = lensmith.import_checkpoint(tmp_path / "hf", tmp_path / "again").folder
    splitters = [json.loads((a / "manifest.json").read_text())["model"]["image_splitter"] for a in (artifact, again)]
    # Each import takes the rule of its source.
    assert [splitter.pop("rounding") for splitter in splitters] == ["original", "transformers"]
    assert splitters[0] == splitters[1]
    assert splitters[0]["grids"] == GRIDS
    names = {n for n, t in weights_of(artifact).items() if "embed_tokens" not in n and "lm_head" not in n}
    assert all(torch.equal(weights_of(artifact)[n], weights_of(again)[n]) for n in names)


def test_a_trained_encoder_has_fewer_blocks(tiny_encoder: Path, tiny_language_model: Path, tmp_path: Path) -> None:
    """An artifact that holds a trained encoder has no block past the selected layer; nor has the export."""
    spec = {
        "model": {
            "vision_encoder": {"name": "clip", "checkpoint": str(tiny_encoder)},
            "image_splitter": "square",
            "connector": {"name": "mlp", "activation": "gelu_tanh"},
            "language_model": {"name": "llama", "checkpoint": str(tiny_language_model)},
            "conversation": "chatml",
        }
    }
    model = lensmith.assemble(spec)
    model.changed.add("vision_encoder")
    artifact = model.save(tmp_path / "artifact")
    lensmith.export(artifact, tmp_path / "hf", to="hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["vision_config"]["num_hidden_layers"], config["vision_feature_layer"]) == (2, -1)
    assert config["projector_hidden_act"] == "gelu_pytorch_tanh"


def change(spec: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *way, last = path.split(".")
    here = spec
    for key in way:
        here = here[key]
    here[last] = value
    return spec


REFUSED = [
    ("hf", "model.connector", "linear", "model.connector: hf cannot express this: the 'linear' connector"),
    ("hf", "model.connector", {"name": "mlp", "depth": 3}, "an mlp of depth 3 without input_norm"),
    ("hf", "model.image_splitter", "hd", "the 'hd' splitter; it may be square, pad or anyres"),
    ("hf", "model.image_splitter", {"name": "pad", "color": [0, 0, 0]}, r"model.image_splitter.color: .*always with"),
    ("hf", "model.image_splitter", {"name": "anyres", "merge": "flat"}, "anyres with merge 'flat'"),
    ("llava", "model.connector", {"name": "pool"}, "the 'pool' connector; it may be linear, mlp or identity"),
    ("llava", "model.connector", {"name": "mlp", "activation": "silu"}, "an mlp with activation silu"),
    ("peft", "model.connector", "mlp", "the 'frozen' tuner makes none"),
]


@pytest.mark.parametrize(("to", "path", "value", "message"), REFUSED)
def test_what_a_format_cannot_express_is_told_from_the_spec(
    light_spec: dict[str, Any], to: str, path: str, value: Any, message: str
) -> None:
    from lensmith.conversion.exporting import refusals

    problems = refusals(lensmith.load_spec(change(light_spec, path, value)), to)
    assert len(problems) == 1
    with pytest.raises(SpecError, match=message):
        raise SpecError(problems)


def test_an_artifact_is_refused_before_its_weights_are_read(original: Any, tmp_path: Path) -> None:
    artifact = lensmith.import_checkpoint(original("linear"), tmp_path / "artifact").folder
    for file in (artifact / "language_model").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(SpecError, match="the 'linear' connector; there is always an mlp of depth 2"):
        lensmith.export(artifact, tmp_path / "hf", to="hf", dry_run=True)
    assert lensmith.export(artifact, tmp_path / "l", to="llava", dry_run=True) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact"]


def test_other_logits_leave_nothing(original: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swap two tensors of one shape on their way, and the export does not appear."""
    from lensmith_plugins.formats import hf_export

    artifact = lensmith.import_checkpoint(original(), tmp_path / "artifact").folder
    whole = hf_export.decoder

    def swapped(held: Any) -> Any:
        tensors, config = whole(held)
        one, other = (f"model.layers.0.self_attn.{name}_proj.weight" for name in "qk")
        tensors[one], tensors[other] = tensors[other], tensors[one]
        return tensors, config

    monkeypatch.setattr(hf_export, "decoder", swapped)
    with pytest.raises(LensmithError, match=r"a logit differs by .* nothing was written"):
        lensmith.export(artifact, tmp_path / "hf", to="hf")
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_a_siglip_encoder(tiny_language_model: Path, tmp_path: Path) -> None:
    """Without a class token: strategy `full`, and no additional token to count."""
    from lensmith_plugins.vision_encoders.transformers_specs import SiglipSpec

    (tmp_path / "siglip").mkdir()
    encoder = SiglipSpec.tiny(tmp_path / "siglip")
    spec = {
        "model": {
            "vision_encoder": {"name": "siglip", "checkpoint": encoder.checkpoint},
            "image_splitter": "square",
            "connector": "mlp",
            "language_model": {"name": "llama", "checkpoint": str(tiny_language_model)},
            "conversation": "chatml",
        }
    }
    artifact = lensmith.assemble(spec).save(tmp_path / "artifact")
    lensmith.export(artifact, tmp_path / "hf", to="hf")
    processor = json.loads((tmp_path / "hf" / "processor_config.json").read_text())
    assert (processor["num_additional_image_tokens"], processor["vision_feature_select_strategy"]) == (0, "full")
    again = lensmith.import_checkpoint(tmp_path / "hf", tmp_path / "again", options=["conversation=chatml"]).folder
    assert json.loads((again / "manifest.json").read_text())["model"]["vision_encoder"]["name"] == "siglip"
