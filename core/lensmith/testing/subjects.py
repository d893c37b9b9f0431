"""A part under test with everything that checks ask of it, whatever its kind: build it, feed it, take its output apart.

Shape letters as everywhere: V views, N vision tokens a view, W vision width, M tokens out of the connector, D width.
"""

from __future__ import annotations

import abc
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.interfaces.shapes import ConnectorShape, LanguageShape, Parameters, TileLayout, VisionShape
from lensmith.interfaces.specs import IncompatibleParts
from lensmith.testing.findings import Broken, told
from lensmith_registry import Component, Kind, PartSpec

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor, nn

SEED = 20
WIDTH = 20
"""D around a part that is tested alone."""
QUESTIONS = ("what colour is it?", "", "which shape, and how many of them are there?", "is it")


def _random_encoders(count: int) -> Iterator[VisionShape]:
    """Encoders of any grid, half of them with even sides, which connectors can halve."""
    chance = random.Random(SEED)
    for number in range(count):
        step = 1 + number % 2
        rows, columns = step * chance.randint(1, 4), step * chance.randint(1, 4)
        yield VisionShape((14 * rows, 14 * columns), (rows, columns), 4 * chance.randint(1, 6))


ENCODERS = (
    VisionShape((56, 56), (4, 4), 12),
    VisionShape((42, 126), (3, 9), 12),
    VisionShape((28, 42), (2, 3), 12, extra_tokens=1),
    VisionShape((28, 28), (2, 2), WIDTH),
    VisionShape((84, 84), (6, 6), 16),
    *_random_encoders(4),
)
"""Encoders that a connector or a splitter meets: square, oblong and random grids, a class token, several widths."""


@dataclass
class Subject:
    """A part under test.

    Args:
        component: its record.
        spec: its tiny spec.
        implementation: its class.
        home: the folder that its tiny spec wrote to.
    """

    component: Component
    spec: Any
    implementation: Any
    home: Path

    @property
    def kind(self) -> Kind:
        """Its kind."""
        return self.component.kind


class ModuleSubject(Subject, abc.ABC):
    """A part that is a module: encoder, splitter, connector or language model.

    A case is what stands around the part: for a connector an encoder and a width, for an encoder nothing.
    """

    def cases(self) -> list[Any]:
        """Different surroundings in which the part works.

        Raises:
            Broken: it works in none.
        """
        return [None]

    @abc.abstractmethod
    def make(self, spec: PartSpec, case: Any, dtype: torch.dtype, weights: bool) -> nn.Module:
        """Build it with fresh weights or those that its spec names."""

    def build(self, case: Any, dtype: torch.dtype | None = None, *, spec: PartSpec | None = None) -> nn.Module:
        """Build it as assembly does, after the same seed each time, ready for use."""
        import torch

        dtype = dtype or torch.float32
        torch.manual_seed(SEED)
        return self.make(spec or self.spec, case, dtype, True).to(dtype).eval()

    @abc.abstractmethod
    def declared(self, case: Any) -> Any:
        """The shape that the spec declares, or measures where it has no closed form; None for a splitter."""

    @abc.abstractmethod
    def parameters(self, case: Any) -> Parameters:
        """The tensors that the spec declares."""

    def skeleton(self, case: Any) -> nn.Module:
        """Build it on the meta device, without weights."""
        import torch

        with torch.device("meta"):
            return self.make(self.spec, case, torch.float32, False)

    @abc.abstractmethod
    def samples(self, case: Any, count: int) -> list[Any]:
        """Random inputs of random sizes, one thing each (a view, a picture, a text), always the same for a case."""

    @abc.abstractmethod
    def run(self, module: nn.Module, samples: Sequence[Any]) -> list[Tensor]:
        """One call with all samples as one batch; the output of each."""

    def moved(self, sample: Any, to: Any) -> Any:
        """A sample's floating tensors as `to` says: a floating type or a device."""
        return sample.to(to)

    def generator(self) -> torch.Generator:
        """Random numbers, the same each time."""
        import torch

        return torch.Generator().manual_seed(SEED)


class EncoderSubject(ModuleSubject):
    """A vision encoder; a sample is the pixels (C, H, W) of a view."""

    def make(self, spec: PartSpec, case: Any, dtype: torch.dtype, weights: bool) -> nn.Module:
        """See `ModuleSubject.make`."""
        from lensmith.interfaces.loading import Loading

        module: nn.Module = self.implementation.build(spec, Loading(dtype, weights=weights))
        return module

    def declared(self, case: Any) -> VisionShape:
        """See `ModuleSubject.declared`."""
        shape: VisionShape = self.spec.shape() or self.implementation.measure(self.spec)
        return shape

    def parameters(self, case: Any) -> Parameters:
        """See `ModuleSubject.parameters`."""
        return self.declared(case).parameters

    def samples(self, case: Any, count: int) -> list[Any]:
        """See `ModuleSubject.samples`."""
        import torch

        shape, generator = self.declared(case), self.generator()
        return [torch.randn(shape.channels, *shape.image_size, generator=generator) for _ in range(count)]

    def run(self, module: nn.Module, samples: Sequence[Any]) -> list[Tensor]:
        """See `ModuleSubject.run`."""
        import torch

        return list(module(torch.stack(list(samples))))


class ConnectorSubject(ModuleSubject):
    """A connector; a case is (encoder, D), a sample (features (N, W), words)."""

    def cases(self) -> list[Any]:
        """See `ModuleSubject.cases`."""
        found, refused = [], []
        for encoder in ENCODERS:
            try:
                self.declared((encoder, WIDTH))
                found.append((encoder, WIDTH))
            except IncompatibleParts as error:
                refused.append(str(error))
        if not found:
            raise Broken(
                "A connector's tiny spec fits some encoder among common token grids, with and without a class token.",
                f"It refused all of {len(ENCODERS)}, the first with: {refused[0]}",
            )
        return found

    def make(self, spec: PartSpec, case: Any, dtype: torch.dtype, weights: bool) -> nn.Module:
        """See `ModuleSubject.make`."""
        module = self.implementation.build(spec, *case)
        if not hasattr(module, "shape"):  # as `lensmith.assemble` does
            module.shape = self.declared(case)
        if weights:
            module.load_pretrained(spec)
        return module  # type: ignore[no-any-return]

    def declared(self, case: Any) -> ConnectorShape:
        """See `ModuleSubject.declared`."""
        shape: ConnectorShape = self.spec.shape(*case) or self.implementation.measure(self.spec, *case)
        return shape

    def parameters(self, case: Any) -> Parameters:
        """See `ModuleSubject.parameters`."""
        return self.declared(case).parameters

    def samples(self, case: Any, count: int) -> list[Any]:
        """See `ModuleSubject.samples`."""
        import torch

        encoder, generator = case[0], self.generator()
        features = [torch.randn(encoder.tokens, encoder.width, generator=generator) for _ in range(count)]
        return [(one, QUESTIONS[number % len(QUESTIONS)]) for number, one in enumerate(features)]

    def run(self, module: nn.Module, samples: Sequence[Any]) -> list[Tensor]:
        """See `ModuleSubject.run`."""
        import torch

        reads = module.shape.reads_instruction  # type: ignore[union-attr]
        words = [text for _, text in samples] if reads else None
        return list(module(torch.stack([features for features, _ in samples]), words))

    def moved(self, sample: Any, to: Any) -> Any:
        """See `ModuleSubject.moved`."""
        return sample[0].to(to), sample[1]


class SplitterSubject(ModuleSubject):
    """An image splitter; a case is (encoder, connector's shape), a sample (connected views (V, M, D), layout)."""

    def cases(self) -> list[Any]:
        """See `ModuleSubject.cases`."""
        found, refused = [], []
        for encoder in ENCODERS:
            whole = None if encoder.extra_tokens else encoder.grid
            for connector in (ConnectorShape(encoder.tokens, WIDTH, whole), ConnectorShape(5, WIDTH, None)):
                try:
                    self.spec.layout((50, 70), encoder, connector)
                    found.append((encoder, connector))
                except IncompatibleParts as error:
                    refused.append(str(error))
        if not found:
            raise Broken(
                "A splitter works with some encoder and connector that keep a grid.",
                f"It refused all of {len(refused)} pairs, the first with: {refused[0]}",
            )
        return found

    def make(self, spec: PartSpec, case: Any, dtype: torch.dtype, weights: bool) -> nn.Module:
        """See `ModuleSubject.make`."""
        module: nn.Module = self.implementation.build(spec, WIDTH)
        return module

    def declared(self, case: Any) -> None:
        """See `ModuleSubject.declared`."""

    def parameters(self, case: Any) -> Parameters:
        """See `ModuleSubject.parameters`."""
        declared: Parameters = self.spec.parameters(WIDTH)
        return declared

    def layouts(self, case: Any, count: int) -> list[TileLayout]:
        """Layouts of pictures of random sizes, from a pixel to a panorama."""
        chance = random.Random(SEED)
        sizes = [(chance.randint(1, 400), chance.randint(1, 400)) for _ in range(count)]
        return [self.spec.layout(size, *case) for size in (*sizes, (1, 1), (37, 1000))]

    def samples(self, case: Any, count: int) -> list[Any]:
        """See `ModuleSubject.samples`."""
        import torch

        generator, connector = self.generator(), case[1]
        return [
            (torch.randn(layout.views, connector.tokens, WIDTH, generator=generator), layout)
            for layout in self.layouts(case, count)[:count]
        ]

    def run(self, module: nn.Module, samples: Sequence[Any]) -> list[Tensor]:
        """See `ModuleSubject.run`."""
        import torch

        merged = module(torch.cat([views for views, _ in samples]), [layout for _, layout in samples])
        return list(torch.split(merged, [layout.tokens for _, layout in samples]))

    def moved(self, sample: Any, to: Any) -> Any:
        """See `ModuleSubject.moved`."""
        return sample[0].to(to), sample[1]


class LanguageSubject(ModuleSubject):
    """A language model; a sample is a text's ids (T), its output the logits (T, vocabulary)."""

    def make(self, spec: PartSpec, case: Any, dtype: torch.dtype, weights: bool) -> nn.Module:
        """See `ModuleSubject.make`."""
        from lensmith.interfaces.loading import Loading

        module: nn.Module = self.implementation.build(spec, Loading(dtype, weights=weights))
        return module

    def declared(self, case: Any) -> LanguageShape:
        """See `ModuleSubject.declared`."""
        shape: LanguageShape = self.spec.shape() or self.implementation.measure(self.spec)
        return shape

    def parameters(self, case: Any) -> Parameters:
        """See `ModuleSubject.parameters`."""
        return self.declared(case).parameters

    def skeleton(self, case: Any) -> nn.Module:
        """None is built: `measure` does, which needs no tokenizer."""
        raise NotImplementedError

    def samples(self, case: Any, count: int) -> list[Any]:
        """See `ModuleSubject.samples`."""
        import torch

        vocabulary, generator = self.declared(case).vocabulary, self.generator()
        lengths = [9, 1, 14, 6, 11, 3][:count]
        return [torch.randint(0, vocabulary, (length,), generator=generator) for length in lengths]

    def run(self, module: nn.Module, samples: Sequence[Any]) -> list[Tensor]:
        """See `ModuleSubject.run`; rows padded on the right."""
        return [row[: len(ids)] for row, ids in zip(self.logits(module, [[s] for s in samples]), samples, strict=True)]

    def logits(self, module: Any, rows: Sequence[Sequence[Tensor]], *, left: bool = False) -> Tensor:
        """Logits (B, T, vocabulary) of rows of several texts, padded."""
        import torch

        length = max(sum(map(len, row)) for row in rows)
        device = rows[0][0].device
        ids, positions, segments = (torch.zeros(len(rows), length, dtype=torch.long, device=device) for _ in range(3))
        for number, row in enumerate(rows):
            start = length - sum(map(len, row)) if left else 0
            for segment, text in enumerate(row, start=1):
                end = start + len(text)
                ids[number, start:end] = text
                positions[number, start:end] = torch.arange(len(text), device=device)
                segments[number, start:end] = segment
                start = end
        logits: Tensor = module.head(module(module.embed(ids), positions, segments))
        return logits

    def moved(self, sample: Any, to: Any) -> Any:
        """See `ModuleSubject.moved`: ids have no floating type."""
        import torch

        return sample if isinstance(to, torch.dtype) else sample.to(to)


def picture(width: int, height: int) -> Image.Image:
    """Coloured noise, the same each time."""
    from PIL import Image

    return Image.frombytes("RGB", (width, height), random.Random(SEED).randbytes(3 * width * height))


@contextmanager
def promised(promise: str) -> Iterator[None]:
    """What is raised inside breaks this promise."""
    try:
        yield
    except Broken:
        raise
    except Exception as error:
        raise Broken(promise, f"{told(error)}.") from error
