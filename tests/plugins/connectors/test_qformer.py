"""Q-Former: the same as transformers' BLIP-2 and InstructBLIP, and what an artifact keeps of it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Blip2QFormerConfig, Blip2QFormerModel, InstructBlipQFormerConfig, InstructBlipQFormerModel

from lensmith import IncompatibleParts, VisionShape, parameter_shapes
from lensmith_plugins.connectors.qformer import QFormerConnector
from lensmith_plugins.connectors.qformer_config import read_architecture
from lensmith_plugins.connectors.qformer_spec import QFormerSpec

ENCODER = VisionShape((28, 28), (2, 2), 24, extra_tokens=1)
QUESTIONS = ["What colour is it?", "", "Which shape is it? How many?"]
ODD: dict[str, Any] = {"queries": 3, "layers": 5, "width": 36, "heads": 3, "cross_attention_frequency": 3}


@torch.no_grad()
def hidden_states(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of three pictures, and the encoder's last states before its final norm."""
    torch.manual_seed(0)
    pixels = torch.randn(3, 3, 28, 28)
    vision = model.vision_model
    return pixels, vision.encoder(inputs_embeds=vision.embeddings(pixels)).last_hidden_state


def built(spec: QFormerSpec, width: int = 20) -> tuple[QFormerConnector, list[str]]:
    connector = QFormerConnector.build(spec, ENCODER, width)
    notes = list(connector.load_pretrained(spec))
    return connector.eval(), notes


@torch.no_grad()
def test_it_is_transformers_blip2(blip2: tuple[Path, Any]) -> None:
    folder, model = blip2
    connector, notes = built(QFormerSpec(checkpoint=str(folder)))
    pixels, states = hidden_states(model)
    theirs = model.language_projection(model.get_qformer_features(pixels))
    assert not notes
    assert not connector.shape.reads_instruction
    assert theirs.std() > 0.1
    torch.testing.assert_close(connector(states), theirs, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_it_is_transformers_instructblip(instructblip: tuple[Path, Any]) -> None:
    folder, model = instructblip
    connector, notes = built(QFormerSpec(checkpoint=str(folder)))
    pixels, states = hidden_states(model)
    text = connector.tokenizer(QUESTIONS, padding=True, return_tensors="pt")
    assert text["input_ids"][0].tolist()[:3] == [2, 5, 6]  # [CLS] what colour
    theirs = model.get_image_features(
        pixels, qformer_input_ids=text["input_ids"], qformer_attention_mask=text["attention_mask"]
    ).pooler_output
    assert not notes
    assert connector.shape.reads_instruction
    torch.testing.assert_close(connector(states, QUESTIONS), theirs, rtol=1e-5, atol=1e-6)
    # The question is read, and one text's padding for another does not show.
    assert (connector(states, ["how many"] * 3) - theirs).abs().max() > 1e-3
    for number, question in enumerate(QUESTIONS):
        one = connector(states[number : number + 1], [question])
        torch.testing.assert_close(one, theirs[number : number + 1], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_instructblip_without_its_instruction(instructblip: tuple[Path, Any]) -> None:
    folder, model = instructblip
    connector, _ = built(QFormerSpec(checkpoint=str(folder), instruction=False))
    _, states = hidden_states(model)
    seen = model.vision_model.post_layernorm(states)
    queries = model.query_tokens.expand(3, -1, -1)
    theirs = model.qformer(input_ids=None, query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
    assert not connector.shape.reads_instruction
    torch.testing.assert_close(connector(states), model.language_projection(theirs), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_long_instruction_is_cut_to_the_positions(instructblip: tuple[Path, Any]) -> None:
    connector, _ = built(QFormerSpec(checkpoint=str(instructblip[0])))
    assert connector(torch.randn(1, 5, 24), ["what is it " * 50]).shape == (1, 5, 20)


def test_a_projection_of_another_width_starts_fresh(blip2: tuple[Path, Any]) -> None:
    folder, model = blip2
    connector, notes = built(QFormerSpec(checkpoint=str(folder)), width=28)
    assert notes == [
        f"{folder} has a language_projection to width 20, the language model's width is 28: the qformer connector's"
        " projection is fresh, train it before use"
    ]
    assert torch.equal(connector.query_tokens, model.query_tokens)
    assert connector.language_projection.weight.std() > 0


@pytest.mark.parametrize("instruction", [False, True])
@pytest.mark.parametrize("fields", [ODD, {**ODD, "input_norm": False}, {"queries": 1, "layers": 1}])
def test_the_closed_form_is_the_module(bert: Path, fields: dict[str, Any], instruction: bool) -> None:
    spec = QFormerSpec(**fields, instruction=instruction, tokenizer=str(bert))
    connector = QFormerConnector.build(spec, ENCODER, 10)
    shape = spec.shape(ENCODER, 10)
    assert connector.shape == shape
    assert parameter_shapes(connector) == shape.parameters
    assert (shape.tokens, shape.width, shape.grid) == (fields["queries"], 10, None)
    assert shape.reads_instruction == instruction
    out = connector(torch.randn(2, 5, 24), QUESTIONS[:2] if instruction else None)
    assert out.shape == (2, fields["queries"], 10)
    (out * torch.randn_like(out)).sum().backward()
    silent = [name for name, p in connector.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    if fields["queries"] > 1:  # what attends to one thing alone attends to it whatever the weights
        assert not [name for name in silent if not name.endswith("key.bias")]
    assert all(parameter.grad is not None for parameter in connector.parameters())


@pytest.mark.parametrize("instruction", [False, True])
def test_the_defaults_are_transformers_own(instruction: bool, bert: Path) -> None:
    """ViT-g's features, 1408 wide, on the meta device."""
    wide = VisionShape((224, 224), (16, 16), 1408, extra_tokens=1)
    shape = QFormerSpec(instruction=instruction, tokenizer=str(bert)).shape(wide, 2560)
    with torch.device("meta"):
        theirs = InstructBlipQFormerModel(InstructBlipQFormerConfig()) if instruction else blip2_default()
    unread = re.compile(r"encoder\.layer\.11\.(intermediate|output)\.")
    expected = {f"qformer.{n}": tuple(p.shape) for n, p in theirs.named_parameters() if not unread.match(n)}
    assert {p.name: p.shape for p in shape.parameters if p.name.startswith("qformer.")} == expected
    assert shape.tokens == 32


def blip2_default() -> Blip2QFormerModel:
    return Blip2QFormerModel(Blip2QFormerConfig())


@torch.no_grad()
def test_dropout_is_for_training_alone() -> None:
    connector = QFormerConnector.build(QFormerSpec(**ODD), ENCODER, 10)
    features = torch.randn(2, 5, 24)
    assert not torch.equal(connector.train()(features), connector(features))
    connector.requires_grad_(False).train()
    assert torch.equal(connector(features), connector(features))


class TestAnArtifact:
    """What is written beside the weights is enough."""

    @pytest.mark.parametrize("kind", ["blip2", "instructblip"])
    def test_it_needs_no_checkpoint(self, kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        folder = shutil.copytree(request.getfixturevalue(kind)[0], tmp_path / "gone")
        spec = QFormerSpec(checkpoint=str(folder))
        connector, _ = built(spec)
        kept = tmp_path / "connector"
        kept.mkdir()
        connector.save(kept)
        save_file(connector.state_dict(), tmp_path / "connector.safetensors")
        shutil.rmtree(folder)
        relocated = spec.relocated(kept)
        again = QFormerConnector.build(relocated, ENCODER, 20).eval()
        again.load_state_dict(load_file(tmp_path / "connector.safetensors"), strict=True)
        assert again.shape == connector.shape
        assert not again.load_pretrained(relocated)
        features = torch.randn(3, 5, 24)
        asked = QUESTIONS if kind == "instructblip" else None
        assert torch.equal(again(features, asked), connector(features, asked))

    def test_sizes_that_the_spec_says_need_no_file(self, tmp_path: Path) -> None:
        QFormerConnector.build(QFormerSpec(**ODD), ENCODER, 10).save(tmp_path)
        assert not list(tmp_path.iterdir())

    def test_a_tokenizer_of_its_own_goes_along(self, bert: Path, tmp_path: Path) -> None:
        spec = QFormerSpec(**ODD, instruction=True, tokenizer=str(bert))
        QFormerConnector.build(spec, ENCODER, 10).save(tmp_path)
        relocated = spec.relocated(tmp_path)
        assert relocated.tokenizer == str(tmp_path / "qformer_tokenizer")
        assert relocated.shape(ENCODER, 10) == spec.shape(ENCODER, 10)

    def test_sizes_over_a_config_are_kept(self, blip2: tuple[Path, Any], tmp_path: Path) -> None:
        spec = QFormerSpec(config=blip2[0], queries=7, width=40)
        QFormerConnector.build(spec, ENCODER, 10).save(tmp_path)
        assert spec.relocated(tmp_path).shape(ENCODER, 10) == spec.shape(ENCODER, 10)
        assert read_architecture(str(tmp_path)).intermediate == 60  # in proportion


class TestMistakes:
    def test_features_of_another_width(self, blip2: tuple[Path, Any]) -> None:
        with pytest.raises(IncompatibleParts, match=r"reads features of width 24, the vision encoder's are 16 wide"):
            QFormerSpec(checkpoint=str(blip2[0])).shape(VisionShape((28, 28), (2, 2), 16), 20)

    def test_blip2_reads_no_instruction(self, blip2: tuple[Path, Any]) -> None:
        with pytest.raises(ValueError, match="is BLIP-2's, which reads no instruction"):
            QFormerSpec(checkpoint=str(blip2[0]), instruction=True).shape(ENCODER, 20)

    def test_no_tokenizer(self, instructblip: tuple[Path, Any], tmp_path: Path) -> None:
        folder = shutil.copytree(instructblip[0], tmp_path / "copy")
        shutil.rmtree(folder / "qformer_tokenizer")
        with pytest.raises(FileNotFoundError, match="qformer_tokenizer does not exist; set `tokenizer`"):
            QFormerSpec(checkpoint=str(folder)).shape(ENCODER, 20)
        with pytest.raises(ValueError, match="needs a `tokenizer`"):
            QFormerSpec(instruction=True)
        with pytest.raises(OSError, match="holds no tokenizer for the qformer connector"):
            QFormerConnector.build(QFormerSpec(**ODD, instruction=True, tokenizer=str(tmp_path)), ENCODER, 20)

    def test_a_tokenizer_with_too_many_words(self, bert: Path, tmp_path: Path, instructblip: tuple[Path, Any]) -> None:
        (tmp_path / "config.json").write_text((instructblip[0] / "config.json").read_text().replace("40", "9"))
        with pytest.raises(ValueError, match="has 14 words, the Q-Former 9"):
            QFormerConnector.build(QFormerSpec(config=tmp_path, tokenizer=str(bert)), ENCODER, 20)

    def test_tensors_that_do_not_fit(self, instructblip: tuple[Path, Any], tmp_path: Path) -> None:
        folder = shutil.copytree(instructblip[0], tmp_path / "copy")
        tensors = load_file(folder / "model.safetensors")
        tensors["query_tokens"] = torch.zeros(1, 4, 32)
        tensors["qformer.encoder.layer.9.attention.output.dense.bias"] = torch.zeros(32)
        del tensors["vision_model.post_layernorm.weight"]
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(ValueError, match="does not fit the connector") as caught:
            built(QFormerSpec(checkpoint=str(folder)))
        assert (
            "missing norm.weight; unexpected qformer.encoder.layer.9.attention.output.dense.bias;"
            " misshapen: query_tokens is (1, 4, 32), not (1, 5, 32)"
        ) in str(caught.value)

    def test_no_safetensors(self, blip2: tuple[Path, Any], tmp_path: Path) -> None:
        shutil.copy(blip2[0] / "config.json", tmp_path)
        with pytest.raises(FileNotFoundError, match=r"model\.safetensors does not exist; give a folder"):
            built(QFormerSpec(checkpoint=str(tmp_path)))

    def test_configs_and_sizes(self, tmp_path: Path, tiny_encoder: Path) -> None:
        with pytest.raises(ValueError, match="is of a 'clip_vision_model' model; the qformer connector reads"):
            QFormerSpec(config=tiny_encoder).shape(ENCODER, 20)
        with pytest.raises(ValueError, match="width 36 is not a multiple of its 5 heads"):
            QFormerSpec(**{**ODD, "heads": 5}).shape(ENCODER, 20)
        with pytest.raises(ValueError, match="leave out queries, heads: with a checkpoint"):
            QFormerSpec(checkpoint="a/b", queries=3, heads=2)

    def test_a_question_is_needed(self, bert: Path) -> None:
        connector = QFormerConnector.build(QFormerSpec(**ODD, instruction=True, tokenizer=str(bert)), ENCODER, 20)
        with pytest.raises(ValueError, match="give one text a view"):
            connector(torch.zeros(1, 5, 24))
