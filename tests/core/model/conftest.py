"""One assembled model for the folder, and samples of its own rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from PIL import Image

from lensmith.assembly import assemble
from lensmith.data.batch import Batch, pack
from lensmith.data.rows import parse_row
from lensmith.data.sample import Sample, encode_row, expand
from lensmith.model import MultimodalModel

Row = Callable[..., Sample]


@pytest.fixture(scope="session")
def shared_model(model_spec: dict[str, Any]) -> MultimodalModel:
    return assemble({"model": model_spec})


@pytest.fixture
def model(shared_model: MultimodalModel) -> MultimodalModel:
    """The shared model, everything trainable, no gradients."""
    shared_model.requires_grad_(True).train()
    shared_model.zero_grad(set_to_none=True)
    return shared_model


@pytest.fixture
def row(model: MultimodalModel) -> Row:
    """A sample from messages and colours of its pictures."""

    def make(*texts: str, colors: tuple[str, ...] = (), name: str = "row") -> Sample:
        images = [f"{color}.png" for color in colors]
        messages = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
        parsed = parse_row({"id": name, "image": images, "conversations": messages}, number=0)
        tokenizer = model.language_model.tokenizer
        pictures = [model.pictures.prepare(Image.new("RGB", (40, 24), color)) for color in colors]
        return expand(name, encode_row(parsed, model.conversation, tokenizer), pictures, tokenizer.pad_id)

    return make


@pytest.fixture(params=[False, True], ids=["apart", "tied"])
def learns_the_same(
    request: pytest.FixtureRequest, model: MultimodalModel, row: Row
) -> Iterator[Callable[[Sequence[Callable[[], None]]], Batch]]:
    """Given what sets up two ways of forming the loss: asserts equal loss and gradients on one batch, which it returns.

    Head and input embeddings may be one parameter: then the gradients of both uses add up.
    """
    network: Any = model.language_model.network
    own = network.lm_head.weight
    if request.param:
        network.lm_head.weight = network.get_input_embeddings().weight
    samples = [row("<image>\nWhat?", "red and blue", colors=("red",)), row("Say it.", "a rather long answer of words")]
    batch = pack([samples], model.language_model.tokenizer.pad_id)

    def compare(ways: Sequence[Callable[[], None]]) -> Batch:
        found = []
        for begin in ways:
            begin()
            model.zero_grad(set_to_none=True)
            total = model(batch)
            total.backward()
            found.append((total.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
        (value, gradients), (other, others) = found
        torch.testing.assert_close(other, value)
        assert others.keys() == gradients.keys()
        for name, gradient in gradients.items():
            close = {"rtol": 1e-5, "atol": 1e-5}
            torch.testing.assert_close(others[name], gradient, **close, msg=lambda m, n=name: f"{n}: {m}")
        return batch

    yield compare
    network.lm_head.weight = own
