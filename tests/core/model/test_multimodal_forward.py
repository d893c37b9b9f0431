"""The walk from ids and pixels to the loss: against a hand-written one, packed, batched, without pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lensmith.data.batch import Batch, collate, pack
from lensmith.data.sample import Sample
from lensmith.errors import LensmithError
from lensmith.model import MultimodalModel

Row = Callable[..., Sample]


@pytest.fixture
def samples(row: Row) -> list[Sample]:
    """One picture, none, two, and one again: different lengths and layouts."""
    return [
        row("<image>\nWhat colour is it?", "red", colors=("red",), name="one"),
        row("Say it.", "it is green", name="text"),
        row("<image><image> same?", "no", "and <user>?", "blue", colors=("blue", "green"), name="two"),
        row("<image>", "green", colors=("green",), name="short"),
    ]


def pad_of(model: MultimodalModel) -> int:
    return model.language_model.tokenizer.pad_id


def gradients(model: MultimodalModel, losses: Sequence[Tensor]) -> dict[str, Tensor | None]:
    model.zero_grad(set_to_none=True)
    for loss in losses:
        loss.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def assert_same_gradients(a: dict[str, Tensor | None], b: dict[str, Tensor | None]) -> None:
    assert a.keys() == b.keys()
    for name, ours in a.items():
        theirs = b[name]
        assert (ours is None) == (theirs is None), name
        if ours is not None and theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def by_hand(model: MultimodalModel, sample: Sample) -> tuple[Tensor, Tensor]:
    """Summed loss and input embeddings (T, D) of one sample, position by position."""
    language_model = model.language_model
    rows: list[Tensor] = list(language_model.embed(torch.tensor(sample.ids)).unbind(0))
    features: list[Tensor] = []
    for picture in sample.pictures:
        encoded = model.vision_encoder(picture.pixels)
        connected = model.connector(encoded)
        features += model.image_splitter.merge(connected, picture.layout).unbind(0)
    for position, feature in zip(sample.image_positions, features, strict=True):
        rows[position] = feature
    embeds = torch.stack(rows)
    length = len(sample.ids)
    hidden = language_model(embeds[None], torch.arange(length)[None], torch.ones(1, length, dtype=torch.long))[0]
    logits = language_model.head(hidden)
    loss = torch.zeros(())
    for position, target in enumerate(sample.targets):
        if target != -100:
            loss = loss - torch.log_softmax(logits[position], dim=-1)[target]
    return loss, embeds


def test_forward_is_the_hand_written_walk(model: MultimodalModel, samples: list[Sample]) -> None:
    walked = [by_hand(model, sample) for sample in samples]
    batch = collate(samples, pad_of(model))
    loss = model(batch)
    torch.testing.assert_close(loss, sum((one for one, _ in walked), torch.zeros(())), rtol=1e-5, atol=1e-5)
    embeds = model.embed(batch)
    for number, (_, expected) in enumerate(walked):
        torch.testing.assert_close(embeds[number, : len(expected)], expected, rtol=1e-6, atol=1e-6)
    assert_same_gradients(gradients(model, [loss]), gradients(model, [one for one, _ in walked]))


def test_the_loss_is_a_sum_over_the_targets(model: MultimodalModel, samples: list[Sample]) -> None:
    batch = collate(samples[:1], pad_of(model))
    hidden = model.language_model(model.embed(batch), batch.positions, batch.segments)
    mean = F.cross_entropy(model.language_model.head(hidden)[0], batch.targets[0], ignore_index=-100)
    torch.testing.assert_close(model(batch) / batch.target_count, mean)


def test_a_batch_is_its_rows_alone(model: MultimodalModel, samples: list[Sample]) -> None:
    alone = [model(collate([sample], pad_of(model))) for sample in samples]
    together = model(collate(samples, pad_of(model)))
    torch.testing.assert_close(together, torch.stack(alone).sum(), rtol=1e-5, atol=1e-5)
    assert_same_gradients(gradients(model, [together]), gradients(model, alone))


def test_the_order_of_the_rows_does_not_matter(model: MultimodalModel, samples: list[Sample]) -> None:
    turned = [samples[2], samples[0], samples[3], samples[1]]
    torch.testing.assert_close(
        model(collate(turned, pad_of(model))), model(collate(samples, pad_of(model))), rtol=1e-5, atol=1e-5
    )


def test_left_padding_gives_the_same_loss(model: MultimodalModel, samples: list[Sample]) -> None:
    right, left = (model(collate(samples, pad_of(model), left=side)) for side in (False, True))
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def test_packed_rows_are_single_rows(model: MultimodalModel, samples: list[Sample]) -> None:
    single = model(collate(samples, pad_of(model)))
    for rows in ([samples], [samples[:1], samples[1:]], [[samples[3], samples[2]], [samples[1], samples[0]]]):
        packed = model(pack(rows, pad_of(model)))
        torch.testing.assert_close(packed, single, rtol=1e-5, atol=1e-5)
    assert_same_gradients(gradients(model, [packed]), gradients(model, [model(collate(samples, pad_of(model)))]))


def test_packing_without_segments_would_not_be_the_same(model: MultimodalModel, samples: list[Sample]) -> None:
    """The check above can fail: samples that see each other have another loss."""
    batch = pack([samples], pad_of(model))
    leaking = replace(batch, segments=torch.ones_like(batch.segments))
    assert abs((model(leaking) - model(batch)).item()) > 1e-3


def test_the_picture_is_seen(model: MultimodalModel, row: Row) -> None:
    red, blue = (model(collate([row("<image>?", "red", colors=(color,))], pad_of(model))) for color in ("red", "blue"))
    assert abs((red - blue).item()) > 1e-5


class TestWithoutPictures:
    def text(self, model: MultimodalModel, row: Row) -> Batch:
        return collate([row("Say it.", "green"), row("And?", "it is blue", name="b")], pad_of(model))

    def test_text_alone_does_not_touch_the_encoder(self, model: MultimodalModel, row: Row) -> None:
        found = gradients(model, [model(self.text(model, row))])
        assert all(found[name] is None for name in found if name.startswith(("connector.", "vision_encoder.")))
        assert all(found[name] is not None for name in found if name.startswith("language_model."))

    @pytest.mark.parametrize("encoder_trains", [False, True])
    def test_a_dummy_adds_nothing_and_gives_gradients_of_zero(
        self, model: MultimodalModel, row: Row, encoder_trains: bool
    ) -> None:
        model.vision_encoder.requires_grad_(encoder_trains)
        batch = self.text(model, row)
        plain = gradients(model, [model(batch)])
        loss = model(batch, dummy_picture=True)
        assert torch.equal(loss, model(batch))
        found = gradients(model, [loss])
        for name, gradient in found.items():
            if name.startswith("connector.") or (encoder_trains and name.startswith("vision_encoder.")):
                assert gradient is not None, name
                assert torch.equal(gradient, torch.zeros_like(gradient)), name
            elif name.startswith("language_model."):
                assert gradient is not None
                assert torch.equal(gradient, plain[name]), name  # type: ignore[arg-type]
            else:
                assert gradient is None, name

    def test_a_batch_with_pictures_needs_no_dummy(self, model: MultimodalModel, samples: list[Sample]) -> None:
        batch = collate(samples, pad_of(model))
        assert torch.equal(model(batch, dummy_picture=True), model(batch))

    @pytest.mark.parametrize("part", ["vision_encoder", "connector"])
    def test_a_part_that_fails_on_a_blank_picture_does_no_harm(
        self, model: MultimodalModel, row: Row, monkeypatch: pytest.MonkeyPatch, part: str
    ) -> None:
        model.vision_encoder.requires_grad_(False)
        module = getattr(model, part)
        forward = module.forward
        # Not a number for a dummy, as a norm over a picture of one colour could be.
        monkeypatch.setattr(module, "forward", lambda given: forward(given) + torch.nan)
        batch = self.text(model, row)
        loss = model(batch, dummy_picture=True)
        assert torch.equal(loss, model(batch))
        found = gradients(model, [loss])
        for name, gradient in found.items():
            if name.startswith("connector."):
                assert gradient is not None
                assert torch.equal(gradient, torch.zeros_like(gradient)), name

    def test_a_loss_without_targets_is_zero_with_a_graph(self, model: MultimodalModel) -> None:
        pad = pad_of(model)
        loss = model(collate([Sample("", [pad], [-100], [], [])], pad), dummy_picture=True)
        assert loss.item() == 0.0
        found = gradients(model, [loss])
        assert all(g is None or not g.any() for g in found.values())
        assert found["connector.0.weight"] is not None


class TestFrozenEncoder:
    def test_it_runs_without_autograd(self, model: MultimodalModel, samples: list[Sample]) -> None:
        pixels = collate(samples, pad_of(model)).pixels
        assert pixels is not None
        assert model.encode(pixels).requires_grad
        model.vision_encoder.requires_grad_(False)
        features = model.encode(pixels)
        assert not features.requires_grad
        assert features.grad_fn is None

    def test_the_connector_still_learns_the_same(self, model: MultimodalModel, samples: list[Sample]) -> None:
        batch = collate(samples, pad_of(model))
        free = gradients(model, [model(batch)])
        model.vision_encoder.requires_grad_(False)
        frozen = gradients(model, [model(batch)])
        for name, gradient in frozen.items():
            if name.startswith("vision_encoder."):
                assert gradient is None
            else:
                assert torch.equal(gradient, free[name]), name  # type: ignore[arg-type]

    def test_one_trained_parameter_is_enough(self, model: MultimodalModel, samples: list[Sample]) -> None:
        model.vision_encoder.requires_grad_(False)
        next(iter(model.vision_encoder.parameters())).requires_grad_(True)
        pixels = collate(samples, pad_of(model)).pixels
        assert pixels is not None
        assert model.encode(pixels).requires_grad


class TestMismatch:
    def test_a_splitter_whose_layout_and_merge_disagree(
        self, model: MultimodalModel, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        merge = model.image_splitter.merge
        monkeypatch.setattr(model.image_splitter, "merge", lambda views, layout: merge(views, layout)[:-1])
        with pytest.raises(
            LensmithError,
            match=r"picture 0 of the batch was laid out for 4 positions and has 3 features: layout\(\) and merge\(\) of"
            " PadSplitter disagree",
        ):
            model(collate(samples, pad_of(model)))

    def test_errors_of_two_pictures_do_not_cancel(
        self, model: MultimodalModel, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        merge, calls = model.image_splitter.merge, iter(range(9))

        def uneven(views: Tensor, layout: object) -> Tensor:
            tokens = merge(views, layout)
            return torch.cat([tokens, tokens[:1]]) if next(calls) % 2 else tokens[:-1]

        monkeypatch.setattr(model.image_splitter, "merge", uneven)
        with pytest.raises(LensmithError, match="picture 0 of the batch"):
            model(collate(samples, pad_of(model)))

    def test_a_batch_that_was_put_together_wrongly(self, model: MultimodalModel, samples: list[Sample]) -> None:
        batch = collate(samples, pad_of(model))
        broken = replace(batch, image_positions=batch.image_positions[:-1])
        with pytest.raises(
            LensmithError,
            match=r"4 pictures gave 16 features for 15 positions of the batch \(rows one, text, two, short\)",
        ):
            model(broken)
