"""The question's words on their way to a connector that reads them; other connectors never see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from lensmith import GenerationOptions, ImageSplitter, TileLayout, Turn, assemble
from lensmith.data.batch import Batch, collate, pack
from lensmith.data.reader import RowReader
from lensmith.data.rows import parse_row
from lensmith.data.sample import Sample, encode_row, expand, instructions
from lensmith.data.sources import Mixture
from lensmith.generation import Question, prepare
from lensmith.model import MultimodalModel
from lensmith.spec.run import DataSpec

Make = Callable[..., Sample]
FORMAT = "Answer the question using a single word or phrase."


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([Turn("user", (None, f"\nWhat is it?\n{FORMAT}"))], [f"What is it?\n{FORMAT}"]),
        ([Turn("user", ("What is it?\n", None))], ["What is it?"]),
        ([Turn("user", ("Is ", None, " like ", None, "?"))], ["Is like ?"] * 2),
        ([Turn("user", (None,))], [""]),
        ([Turn("user", (None, "\n", None, "\nWhich?"))], ["Which?"] * 2),
        (
            [Turn("user", (None, "\nOne?")), Turn("assistant", ("Yes.",)), Turn("user", ("\n Two? ", None))],
            ["One?", "Two?"],
        ),
        ([Turn("user", ("Draw it.",)), Turn("assistant", (None, "\nHere."))], ["Draw it."]),
        ([Turn("user", ("Hi",)), Turn("assistant", ("Hello",))], []),
    ],
)
def test_a_picture_is_shown_with_the_words_of_its_turn(turns: list[Turn], expected: list[str]) -> None:
    assert instructions(turns) == expected


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT tokenizer that knows single letters and a few words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "?", "colour", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder = tmp_path_factory.mktemp("bert")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reading(model_spec: dict[str, Any], bert: Path) -> MultimodalModel:
    """A model whose connector reads the question."""
    connector = {
        "name": "qformer",
        "instruction": True,
        "tokenizer": str(bert),
        "queries": 3,
        "layers": 2,
        "width": 16,
        "heads": 2,
    }
    model = assemble({"model": {**model_spec, "connector": connector}}).eval()
    with torch.no_grad():  # fresh weights of BERT's small initialisation hardly tell questions apart
        for name, parameter in model.connector.named_parameters():
            if parameter.dim() > 1 and "query_tokens" not in name:
                parameter.mul_(8)
        head = model.language_model.network.get_output_embeddings().weight
        head[model.language_model.tokenizer.eos_id] = 0
        head.mul_(8)
    return model


@pytest.fixture
def ask(reading: MultimodalModel) -> Make:
    """A sample of one question and answer."""

    def make(question: str, answer: str = "red", colors: Sequence[str] = (), name: str = "row") -> Sample:
        messages = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        images = [f"{color}.png" for color in colors]
        parsed = parse_row({"id": name, "image": images, "conversations": messages}, number=0)
        tokenizer = reading.language_model.tokenizer
        pictures = [
            reading.pictures.prepare(Image.new("RGB", (40, 24), color), words)
            for color, words in zip(colors, instructions(parsed.turns), strict=True)
        ]
        return expand(name, encode_row(parsed, reading.conversation, tokenizer), pictures, tokenizer.pad_id)

    return make


@pytest.fixture
def samples(ask: Make) -> list[Sample]:
    return [
        ask("<image>\nWhat colour is it?", colors=("red",), name="one"),
        ask("Say it.", "green", name="text"),
        ask("<image>\n<image>\nWhich of them is a rather longer story?", "no", colors=("blue", "green"), name="two"),
        ask("<image>", "blue", colors=("blue",), name="short"),
    ]


def pad_of(model: MultimodalModel) -> int:
    return model.language_model.tokenizer.pad_id


def pictures_of(model: MultimodalModel, batch: Batch) -> Tensor:
    """The embeddings at the pictures' positions (P, D)."""
    return model.embed(batch).flatten(0, 1)[batch.image_positions]


@torch.no_grad()
def test_the_features_change_with_the_question(reading: MultimodalModel, ask: Make) -> None:
    def features(question: str) -> Tensor:
        return pictures_of(reading, collate([ask(question, colors=("red",))], pad_of(reading)))

    first = features("<image>\nWhat colour is it?")
    assert (features("<image>\nHow many?") - first).abs().max() > 1e-2
    assert torch.equal(features("What colour is it?\n<image>"), first)  # the words are the same


@torch.no_grad()
def test_other_connectors_do_not_read_it(shared_model: MultimodalModel) -> None:
    batches = []
    for question in ("What colour is it?", "How many?"):
        sample = prepare(shared_model, Question.of(Image.new("RGB", (40, 24), "red"), question))
        assert [picture.instruction for picture in sample.pictures] == [question]
        batches.append(collate([sample], pad_of(shared_model)))
    one, other = (pictures_of(shared_model, batch) for batch in batches)
    assert torch.equal(one, other)
    without = replace(batches[0], instructions=())
    assert torch.equal(pictures_of(shared_model, without), one)


@torch.no_grad()
def test_batches_and_packed_rows_are_single_rows(reading: MultimodalModel, samples: list[Sample]) -> None:
    pad = pad_of(reading)
    single = [reading(collate([sample], pad)) for sample in samples]
    together = torch.stack(single).sum()
    for batch in (
        collate(samples, pad),
        collate(samples, pad, left=True),
        pack([samples], pad),
        pack([[samples[3], samples[1]], [samples[2], samples[0]]], pad),
    ):
        torch.testing.assert_close(reading(batch), together, rtol=1e-5, atol=1e-5)
    exchanged = replace(batch, instructions=tuple(reversed(batch.instructions)))
    assert abs((reading(exchanged) - together).item()) > 1e-3  # the check can fail


def test_a_dummy_picture_reaches_every_weight_and_changes_nothing(reading: MultimodalModel, ask: Make) -> None:
    batch = collate([ask("Say it.", "green")], pad_of(reading))
    loss = reading(batch, dummy_picture=True)
    torch.testing.assert_close(loss, reading(batch), rtol=0, atol=0)
    reading.zero_grad(set_to_none=True)
    loss.backward()
    for name, parameter in reading.connector.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


@torch.no_grad()
def test_answers_in_batches_are_single_answers(reading: MultimodalModel) -> None:
    red, blue = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (20, 30), "blue")
    questions: list[tuple[Any, str]] = [
        (red, "What colour is it?"),
        (red, "How many are there of them?"),
        (None, "Say something."),
        ([red, blue], "<image> or <image>, which is red?"),
        ([blue, red, blue], "Which?"),
    ]
    options = GenerationOptions(max_new_tokens=8)
    single = [reading.generate(images, prompt, options) for images, prompt in questions]
    assert len(set(single)) > 2
    assert reading.generate_batch(questions, options) == single
    assert "".join(reading.stream(*questions[3], options)) == single[3]
    sample = prepare(reading, Question.of([red, blue], "<image> or <image>, which is red?"))
    assert [picture.instruction for picture in sample.pictures] == ["or , which is red?"] * 2


class Rows(ImageSplitter):
    """The views one after another."""

    @classmethod
    def build(cls, spec: Any, width: int) -> Rows:
        return cls()

    @staticmethod
    def split(spec: Any, image: Image.Image, layout: TileLayout, background: Any) -> list[Image.Image]:
        return [image] * layout.views

    def merge(self, features: Tensor, layout: TileLayout) -> Tensor:
        return features.flatten(0, 1)


@torch.no_grad()
def test_every_view_of_a_picture_has_its_words(reading: MultimodalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "image_splitter", Rows())
    features = torch.randn(1, 4, 32).expand(3, -1, -1)
    layouts = [TileLayout(views, 3 * views, (28, 28), (28, 28)) for views in (2, 1)]
    first, second, third = reading.connect(features, layouts, ["which colour", "how many"]).split(3)
    torch.testing.assert_close(first, second)
    assert (third - first).abs().max() > 1e-2


@pytest.mark.parametrize("template", ["chatml", "plain"])
def test_rows_of_a_file_bring_their_words(reading: MultimodalModel, rows: Path, template: str) -> None:
    """Also where the template drops them."""
    from lensmith import parts

    mixture = Mixture(DataSpec.model_validate({"sources": [{"path": str(rows)}]}))
    spec = reading.spec.model_copy(update={"conversation": None})
    model = assemble({"model": {**spec.model_dump(mode="json"), "conversation": template}})
    reader = RowReader(mixture, parts.conversation(model.spec), model.language_model.tokenizer, 64, model.pictures)
    sample = reader.sample(0)
    assert [picture.instruction for picture in sample.pictures] == ["What colour is it?"]
    assert collate([sample], 0).instructions == ("What colour is it?",)
