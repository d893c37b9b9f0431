"""A stage with features: the same numbers, from files that stay closed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lensmith.data.pictures import PictureError
from lensmith.errors import DataError, TrainingError
from lensmith.features import folders

Make = Callable[..., Any]


def no_picture(*arguments: Any) -> Any:
    raise AssertionError("a picture was opened")


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, opening a picture or reading its header fails."""

    def close() -> None:
        monkeypatch.setattr("lensmith.data.sample.open_image", no_picture)
        monkeypatch.setattr("lensmith.features.filling.picture_size", no_picture)

    return close


@pytest.fixture
def fused(encoder: Path, tmp_path: Path) -> dict[str, Any]:
    """The same encoder twice, once at an earlier layer."""
    again = shutil.copytree(encoder, tmp_path / "again")
    both = [{"name": "clip", "checkpoint": str(encoder)}, {"name": "clip", "checkpoint": str(again), "select_layer": 1}]
    return {"name": "fused", "encoders": both}


@pytest.mark.parametrize("splitter", ["pad", "anyres", "hd"])
@pytest.mark.parametrize("encoders", ["one", "fused"])
@pytest.mark.parametrize("workers", [0, 2])
def test_loss_and_gradients_are_those_without_the_cache(
    work: Make, fused: dict[str, Any], splitter: str, encoders: str, workers: int, closed: Callable[[], None]
) -> None:
    """No, one and several pictures a row, one of them twice; measured worst: 2e-7."""
    model = {"image_splitter": splitter} | ({"vision_encoder": fused} if encoders == "fused" else {})
    plain, cached = work(**model), work(**model, data={"workers": workers})
    cached.attach()
    closed_after = plain.batch()
    closed()
    results = []
    for one, batch in ((plain, closed_after), (cached, cached.batch())):
        one.encoded = 0
        loss = one.model(batch, dummy_picture=True)
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in one.model.connector.parameters())])
    assert plain.encoded
    assert not cached.encoded
    assert not cached.model.encodes
    for expected, found in zip(*results, strict=True):
        assert torch.linalg.norm(found - expected) <= 1e-6 * torch.linalg.norm(expected)


def test_rows_without_pictures_use_the_connector_all_the_same(work: Make) -> None:
    cached = work()
    cached.attach()
    cached.encoded = 0
    loss = cached.model(cached.batch([7]), dummy_picture=True)
    loss.backward()
    assert not cached.encoded
    assert all(p.grad is not None and not p.grad.any() for p in cached.model.connector.parameters())


@pytest.mark.usefixtures("settled")
class TestReuse:
    def test_by_the_next_stage_or_run(self, work: Make, closed: Callable[[], None]) -> None:
        first = work()
        first.attach()
        assert first.encoded == 17  # nine pictures, filled up to groups of eight, and the probe
        assert "for 9 pictures, 0 there" in first.said[0]
        closed()
        second = work(connector={"name": "linear"})
        second.attach()
        assert second.encoded == 1  # the probe
        assert "4.61 kB for 9 pictures, 9 there" in second.said[0]
        assert torch.equal(second.features(8), first.features(8))

    def test_only_pictures_that_will_be_shown_are_encoded(self, work: Make) -> None:
        first = work()
        first.attach([0, 7, 6])
        assert "for 2 pictures, 0 there" in first.said[0]
        first.attach([0, 1])
        assert "for 2 pictures, 1 there" in first.said[1]

    def test_a_changed_picture_is_encoded_again(self, work: Make, pictures: Path) -> None:
        before = work()
        before.attach()
        status = (pictures / "one.png").stat()
        size = Image.open(pictures / "one.png").size
        Image.new("RGB", size, "red").save(pictures / "one.png")
        os.utime(pictures / "one.png", ns=(status.st_atime_ns, status.st_mtime_ns))
        after = work()
        after.attach()
        assert "9 pictures, 8 there" in after.said[0]
        assert not torch.equal(after.features(0), before.features(0))
        wanted = after.model.encode(after.model.pictures.prepare(Image.new("RGB", size, "red")).pixels)
        torch.testing.assert_close(after.features(0), wanted)

    def test_moved_touched_and_equal_pictures_are_not(self, work: Make, pictures: Path) -> None:
        work().attach()
        (pictures / "one.png").rename(pictures / "old.png")
        shutil.copy(pictures / "old.png", pictures / "one.png")
        (pictures / "two.png").touch()
        again = work()
        again.attach()
        assert "9 pictures, 7 there" in again.said[0]
        assert again.encoded == 1

    def test_a_damaged_shard_is_told_and_made_again(self, work: Make, tmp_path: Path) -> None:
        first = work()
        first.attach()
        (shard,) = (tmp_path / "cache").glob("*/shard-*")
        shard.write_bytes(shard.read_bytes()[:-8])
        second = work()
        second.attach()
        assert "is left aside: it is cut off" in second.said[0]
        assert torch.equal(second.features(3), first.features(3))


def test_files_written_a_moment_ago_are_trusted_for_one_run_alone(work: Make, tmp_path: Path) -> None:
    """Else a file that is written again within a tick of the clock would keep the features of the first content."""
    first = work()
    first.attach()
    assert not first.model.encodes
    assert not list((tmp_path / "cache").glob("*/files-*"))
    second = work()
    second.attach()
    assert "0 there" in second.said[0]
    assert second.encoded == 1  # their content is known


def test_features_do_not_depend_on_what_else_was_missing(work: Make, tmp_path: Path) -> None:
    together, alone = work(), work(cache={"folder": str(tmp_path / "other")})
    together.attach()
    alone.attach([4])
    assert torch.equal(together.features(4), alone.features(4))


class TestLimit:
    """A picture takes 4 tokens x 32 x 4 bytes = 512 bytes."""

    def test_too_little_is_refused_before_anything_is_written(self, work: Make, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match=r"4\.61 kB more would exceed the limit of 4 kB .*; raise cache\.limit"):
            work(cache={"limit": "4kB"}).attach()
        assert not list((tmp_path / "cache").glob("*/shard-*"))

    def test_what_fits_is_kept_and_the_rest_encoded(self, work: Make, tmp_path: Path) -> None:
        plain, cached = work(), work(cache={"limit": "5kB", "over_limit": "encode"})
        cached.attach()
        assert "pictures are encoded anew each time" in cached.said[1]
        assert cached.model.encodes
        assert folders.held(tmp_path / "cache") < 8000  # the index included
        batch = cached.batch()
        assert batch.features is not None
        assert batch.pixels is not None
        expected = plain.model(plain.batch())
        torch.testing.assert_close(cached.model(batch), expected, rtol=1e-6, atol=0)
        known = [row for row in range(6) if cached.batch([row]).pixels is None]
        cached.encoded = 0
        cached.model(cached.batch(known[:1]), dummy_picture=True)
        assert cached.encoded == 1  # a blank one, as other ranks may encode theirs

    @pytest.mark.usefixtures("settled")
    def test_moved_pictures_need_no_room(self, work: Make, pictures: Path) -> None:
        work().attach()
        for path in pictures.glob("*.png"):
            path.touch()
        tight = work(cache={"limit": "9kB"})
        tight.attach()
        assert not tight.model.encodes


class TestBadPictures:
    def test_are_told_with_their_rows(self, work: Make, pictures: Path) -> None:
        (pictures / "three.png").write_bytes(b"no picture")
        (pictures / "nine.png").unlink()
        with pytest.raises(DataError) as caught:
            work().attach()
        message = str(caught.value)
        assert "2 pictures cannot be used (set data.bad_rows: skip" in message
        assert "rows.jsonl:3: " in message
        assert "rows.jsonl:9: " in message

    def test_are_left_out_where_rows_are(self, work: Make, pictures: Path) -> None:
        (pictures / "three.png").write_bytes(b"no picture")
        cached = work(data={"bad_rows": "skip"})
        cached.attach()
        assert not cached.model.encodes
        with pytest.raises(DataError, match=r"three\.png: is not a picture"):
            cached.reader.sample(2)
        with pytest.raises(PictureError):
            cached.model.pictures.open(pictures, "three.png")

    def test_names_that_lead_out_are_refused(self, work: Make, pictures: Path) -> None:
        outside = shutil.copy(pictures / "one.png", pictures.parent / "one.png")
        rows = pictures / "rows.jsonl"
        rows.write_text(rows.read_text().replace("two.png", f"../{outside.name}"))
        with pytest.raises(DataError, match=r"holds `\.\.`"):
            work().attach()


def test_an_encoder_that_trains_is_refused(work: Make) -> None:
    trains = work()
    trains.model.vision_encoder.requires_grad_(True)
    with pytest.raises(TrainingError, match="trains the vision encoder"):
        trains.attach()


def test_a_folder_that_cannot_be_written_is_told(work: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"name another with cache\.folder"):
        work(cache={"folder": str(tmp_path / "file" / "cache")}).attach()
