"""Positions of a row: expansion of pictures, shifted targets, and where a long row is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from lensmith.assembly import assemble
from lensmith.data.encode import Encoded
from lensmith.data.rows import RowError, parse_row
from lensmith.data.sample import Picture, encode_row, expand, truncate
from lensmith.errors import DataError
from lensmith.interfaces.shapes import TileLayout
from lensmith.interfaces.text import IMAGE_ID
from lensmith.parts import conversation, tokenizer
from lensmith.spec.build import load_spec


def picture(tokens: int, views: int = 1) -> Picture:
    layout = TileLayout(views=views, tokens=tokens, image_size=(4, 4), canvas=(4, 4))
    return Picture(torch.zeros(views, 3, 4, 4), layout)


class TestExpand:
    def test_a_picture_takes_its_positions_and_is_no_target(self) -> None:
        sample = expand("r", Encoded([1, IMAGE_ID, 5, 6, 7], [(3, 5)], ""), [picture(3)], pad_id=0)
        assert sample.ids == [1, 0, 0, 0, 5, 6, 7]
        assert sample.image_positions == [1, 2, 3]
        assert sample.targets == [-100, -100, -100, -100, 6, 7, -100]

    def test_position_t_predicts_what_stands_at_t_plus_1(self) -> None:
        sample = expand("r", Encoded([1, 2, 3, 4, 5], [(1, 2), (3, 5)], ""), [], pad_id=0)
        assert sample.targets == [2, -100, 4, 5, -100]
        for position, target in enumerate(sample.targets[:-1]):
            assert target in (-100, sample.ids[position + 1])

    def test_the_first_id_is_never_predicted(self) -> None:
        assert expand("r", Encoded([1, 2], [(0, 2)], ""), [], pad_id=0).targets == [2, -100]

    def test_the_last_position_of_a_picture_predicts_the_first_word(self) -> None:
        sample = expand("r", Encoded([IMAGE_ID, 8], [(1, 2)], ""), [picture(2)], pad_id=0)
        assert sample.targets == [-100, 8, -100]

    def test_a_picture_within_an_answer_is_not_learnt(self) -> None:
        sample = expand("r", Encoded([1, 2, IMAGE_ID, 3], [(1, 4)], ""), [picture(2)], pad_id=9)
        assert sample.ids == [1, 2, 9, 9, 3]
        assert sample.targets == [2, -100, -100, 3, -100]

    def test_pictures_of_different_sizes_in_order(self) -> None:
        encoded = Encoded([IMAGE_ID, 1, IMAGE_ID, 2], [(3, 4)], "")
        sample = expand("r", encoded, [picture(1), picture(3, views=2)], pad_id=0)
        assert sample.image_positions == [0, 2, 3, 4]
        assert [p.layout.tokens for p in sample.pictures] == [1, 3]

    @pytest.mark.parametrize("given", [0, 2])
    def test_another_number_of_pictures(self, given: int) -> None:
        with pytest.raises(DataError, match=f"row 'r': 1 placeholders for {given} pictures"):
            expand("r", Encoded([IMAGE_ID, 1], [(1, 2)], ""), [picture(1)] * given, pad_id=0)


class TestTruncate:
    row = Encoded([1, IMAGE_ID, 5, 6, 7, 8], [(2, 4), (5, 6)], "prompt")

    def test_a_row_that_fits_is_left_alone(self) -> None:
        assert truncate(self.row, [3], 8) is self.row

    def test_the_end_is_cut(self) -> None:
        cut = truncate(self.row, [3], 7)
        assert cut.ids == [1, IMAGE_ID, 5, 6, 7]
        assert cut.supervised == [(2, 4)]
        assert cut.prompt == "prompt"

    def test_within_an_answer(self) -> None:
        assert truncate(self.row, [3], 5).supervised == [(2, 3)]

    def test_the_length_is_exact_with_pictures(self) -> None:
        for limit in range(5, 9):
            sample = expand("r", truncate(self.row, [3], limit), [picture(3)], 0)
            assert len(sample.ids) == limit

    def test_nothing_to_learn_is_left(self) -> None:
        with pytest.raises(RowError, match="has nothing to learn within max_length = 4 positions"):
            truncate(self.row, [3], 4)

    @pytest.mark.parametrize("limit", [1, 2, 3])
    def test_never_into_a_picture(self, limit: int) -> None:
        with pytest.raises(
            RowError, match=f"takes more than max_length = {limit} positions and the cut would fall into a picture"
        ):
            truncate(self.row, [3], limit)

    def test_never_before_a_later_picture(self) -> None:
        row = Encoded([1, 2, 3, IMAGE_ID, 4], [(1, 3)], "")
        with pytest.raises(RowError, match="the cut would fall into a picture"):
            truncate(row, [4], 3)


class TestWithRealParts:
    def test_a_row_without_an_answer_has_nothing_to_learn(self, spec_file: Path) -> None:
        model = load_spec(spec_file).model
        for texts in (["q"], ["q", ""]):
            roles = ("human", "gpt")
            raw = {"conversations": [{"from": roles[i], "value": text} for i, text in enumerate(texts)]}
            row = parse_row(raw, number=0)
            with pytest.raises(RowError, match="has nothing to learn: no answer of the assistant with words in it"):
                encode_row(row, conversation(model), tokenizer(model))

    def test_what_a_template_cannot_express_is_a_row_error(self, spec_file: Path) -> None:
        model = load_spec(spec_file, ["model.conversation=plain"]).model
        raw = {"conversations": [{"from": "human", "value": "no picture"}, {"from": "gpt", "value": "x"}]}
        with pytest.raises(RowError, match="the user's turn shows none"):
            encode_row(parse_row(raw, number=0), conversation(model), tokenizer(model))

    def test_the_pipeline_reads_below_its_folder(self, spec_file: Path, rows: Path) -> None:
        pipeline = assemble(spec_file).pictures
        opened = pipeline.open(rows.parent, "3.png")
        assert opened.pixels.shape == (1, 3, 28, 28)
        assert opened.layout == pipeline.layout(30, 43)
        assert opened.layout.tokens == 4
        with pytest.raises(DataError, match="missing"):
            pipeline.open(rows.parent, "missing.png")
        with pytest.raises(DataError):
            pipeline.open(rows.parent, "../" + rows.parent.name + "/3.png")

    def test_the_border_is_the_encoders_mean_colour(self, spec_file: Path) -> None:
        pipeline = assemble(spec_file).pictures
        pixels = pipeline.prepare(Image.new("RGB", (60, 20), (255, 255, 255))).pixels[0]
        assert pixels[:, 14, 14].min() > 1.5
        assert pixels[:, 1, 14].abs().max() < 0.02
