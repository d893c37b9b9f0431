"""Samples to tensors: padding on either side, packing, and pictures in their places."""

from __future__ import annotations

import pytest
import torch

from lensmith.data.batch import collate, pack
from lensmith.data.sample import Picture, Sample
from lensmith.interfaces.shapes import TileLayout

PAD = 9


def picture(value: float, views: int = 1, tokens: int = 2) -> Picture:
    layout = TileLayout(views=views, tokens=tokens, image_size=(2, 2), canvas=(2, 2))
    return Picture(torch.full((views, 3, 2, 2), value), layout)


def shown() -> Sample:
    """Two positions of a picture, then two words, the second learnt."""
    return Sample("shown", [1, PAD, PAD, 5, 6], [-100, -100, -100, 6, -100], [1, 2], [picture(1.0)])


def said() -> Sample:
    return Sample("said", [1, 7, 8], [7, 8, -100], [], [])


def twice() -> Sample:
    """Two pictures, the second of two views."""
    pictures = [picture(2.0), picture(3.0, views=2, tokens=3)]
    return Sample("twice", [PAD, PAD, 4, PAD, PAD, PAD], [-100] * 6, [0, 1, 3, 4, 5], pictures)


class TestCollate:
    def test_padding_on_the_right(self) -> None:
        batch = collate([shown(), said()], PAD)
        assert batch.ids.tolist() == [[1, 9, 9, 5, 6], [1, 7, 8, 9, 9]]
        assert batch.positions.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 0]]
        assert batch.segments.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
        assert batch.targets.tolist() == [[-100, -100, -100, 6, -100], [7, 8, -100, -100, -100]]
        assert batch.target_count == 3
        assert batch.rows == ("shown", "said")

    def test_padding_on_the_left(self) -> None:
        batch = collate([shown(), said()], PAD, left=True)
        assert batch.ids.tolist() == [[1, 9, 9, 5, 6], [9, 9, 1, 7, 8]]
        assert batch.positions.tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]]
        assert batch.segments.tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
        assert batch.targets[1].tolist() == [-100, -100, 7, 8, -100]

    @pytest.mark.parametrize("left", [False, True])
    def test_picture_positions_index_the_flattened_batch(self, left: bool) -> None:
        batch = collate([said(), shown(), twice()], PAD, left=left)
        expected = torch.zeros(3, 6, dtype=torch.bool)
        start = 1 if left else 0
        expected[1, start + 1 : start + 3] = True
        expected[2, [0, 1, 3, 4, 5]] = True
        assert batch.image_positions.tolist() == torch.nonzero(expected.flatten()).flatten().tolist()

    def test_views_of_all_pictures_in_order(self) -> None:
        batch = collate([twice(), said(), shown()], PAD)
        assert batch.pixels is not None
        assert batch.pixels[:, 0, 0, 0].tolist() == [2.0, 3.0, 3.0, 1.0]
        assert [layout.views for layout in batch.layouts] == [1, 2, 1]

    def test_text_alone_has_no_pixels(self) -> None:
        batch = collate([said(), said()], PAD)
        assert batch.pixels is None
        assert batch.layouts == ()
        assert batch.image_positions.shape == (0,)
        assert batch.image_positions.dtype == torch.long

    def test_to_moves_tensors_and_keeps_the_rest(self) -> None:
        batch = collate([shown()], PAD)
        moved = batch.to("meta")
        assert moved.pixels is not None
        assert {moved.ids.device.type, moved.pixels.device.type, moved.image_positions.device.type} == {"meta"}
        assert (moved.rows, moved.layouts) == (batch.rows, batch.layouts)
        assert collate([said()], PAD).to("meta").pixels is None


class TestPack:
    def test_one_segment_a_sample(self) -> None:
        batch = pack([[said(), shown()], [said()]], PAD)
        assert batch.ids.tolist() == [[1, 7, 8, 1, 9, 9, 5, 6], [1, 7, 8, 9, 9, 9, 9, 9]]
        assert batch.positions[0].tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
        assert batch.segments.tolist() == [[1, 1, 1, 2, 2, 2, 2, 2], [1, 1, 1, 0, 0, 0, 0, 0]]
        assert batch.image_positions.tolist() == [4, 5]
        assert batch.rows == ("said", "shown", "said")

    def test_no_target_reaches_over_a_border(self) -> None:
        batch = pack([[said(), said(), shown()]], PAD)
        last = (batch.segments[0, 1:] != batch.segments[0, :-1]).nonzero().flatten().tolist()
        assert last == [2, 5]
        assert batch.targets[0, last].tolist() == [-100, -100]
        assert batch.targets[0].tolist() == [7, 8, -100, 7, 8, -100, -100, -100, -100, 6, -100]

    def test_packing_keeps_every_target(self) -> None:
        samples = [shown(), said(), twice(), said()]
        assert pack([samples], PAD).target_count == collate(samples, PAD).target_count == 5

    def test_on_the_left(self) -> None:
        batch = pack([[said()], [said(), said()]], PAD, left=True)
        assert batch.segments.tolist() == [[0, 0, 0, 1, 1, 1], [1, 1, 1, 2, 2, 2]]

    @pytest.mark.parametrize("rows", [[], [[]]])
    def test_an_empty_row_is_a_mistake_of_the_caller(self, rows: list[list[Sample]]) -> None:
        with pytest.raises(ValueError, match="at least one sample in each row"):
            pack(rows, PAD)


class TestPicturesShownTwice:
    def test_a_file_is_there_once(self) -> None:
        one, two, unknown = picture(1.0), picture(2.0, views=2, tokens=3), picture(3.0)
        one.file, two.file = "a.png", "b.png"
        samples = [Sample("row", [PAD] * 2, [-100] * 2, [0, 1], [shown]) for shown in (one, unknown, one)]
        samples.insert(1, Sample("row", [PAD] * 6, [-100] * 6, list(range(6)), [two, two]))
        for batch in (collate(samples, PAD), pack([samples], PAD)):
            assert batch.pixels is not None
            assert batch.repeats is not None
            assert batch.pixels[:, 0, 0, 0].tolist() == [1.0, 2.0, 2.0, 3.0]
            assert batch.repeats.tolist() == [0, 1, 2, 1, 2, 3, 0]
            assert len(batch.layouts) == 5
            moved = batch.to("meta")
            assert moved.repeats is not None
            assert moved.repeats.device.type == "meta"

    def test_pictures_of_unknown_files_are_all_there(self) -> None:
        batch = collate([shown(), shown()], PAD)
        assert batch.repeats is None
        assert batch.pixels is not None
        assert len(batch.pixels) == 2
