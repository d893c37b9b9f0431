"""The implementations of `wrong_parts`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.transforms.functional import to_tensor

from lensmith import (
    Benchmark,
    Connector,
    Conversation,
    Exporter,
    ImageSplitter,
    Loading,
    ParameterGroup,
    Preprocessing,
    Segment,
    TileLayout,
    Tuner,
    Turn,
    VisionEncoder,
    VisionShape,
)
from lensmith.conversion.stored import write_file
from lensmith.evaluation.files import Reader, read_json_lines
from lensmith.evaluation.matching import by_question
from lensmith.interfaces.benchmark import Item, Predictions, SampleScore, Scores
from lensmith.merging import logits
from lensmith_plugins.language_models.hf import HfCausalLanguageModel


class FineConnector(Connector):
    def __init__(self, spec: Any, encoder: VisionShape, width: int) -> None:
        super().__init__()
        self.shape = spec.shape(encoder, width)
        self.layer = nn.Linear(encoder.width, width)

    @classmethod
    def build(cls, spec: Any, encoder: VisionShape, width: int) -> Connector:
        return cls(spec, encoder, width)

    def forward(self, features: Tensor, instruction: Sequence[str] | None = None) -> Tensor:
        return self.layer(features)


class Miscounting(FineConnector):
    def tokens_out(self, tokens: int) -> int:
        return tokens + 1


class Unreached(FineConnector):
    def __init__(self, spec: Any, encoder: VisionShape, width: int) -> None:
        super().__init__(spec, encoder, width)
        self.spare = nn.Linear(width, width)


class Forgetting(FineConnector):
    """It keeps what it was built with outside of its weights."""

    def __init__(self, spec: Any, encoder: VisionShape, width: int) -> None:
        super().__init__(spec, encoder, width)
        self.scale = float(torch.rand((), device="cpu"))

    def forward(self, features: Tensor, instruction: Sequence[str] | None = None) -> Tensor:
        return self.scale * self.layer(features)


class OutOfStep(FineConnector):
    """It calls its layer once a view."""

    def forward(self, features: Tensor, instruction: Sequence[str] | None = None) -> Tensor:
        return torch.stack([self.layer(view) for view in features])


class Homebound(FineConnector):
    """It makes a tensor on the CPU, wherever the features are."""

    def forward(self, features: Tensor, instruction: Sequence[str] | None = None) -> Tensor:
        return self.layer(features) + torch.ones(features.shape[1], 1, dtype=features.dtype)


class SingleTyped(FineConnector):
    """It gives fp32, whatever it is given."""

    def forward(self, features: Tensor, instruction: Sequence[str] | None = None) -> Tensor:
        return self.layer(features).float()


class Unseeded(FineConnector):
    """Its weights come from the operating system's chance."""

    def __init__(self, spec: Any, encoder: VisionShape, width: int) -> None:
        super().__init__(spec, encoder, width)
        with torch.no_grad():
            self.layer.bias.add_(random.SystemRandom().random() * 1e-4)


class Pixels(Preprocessing):
    background = (0, 0, 0)

    def __call__(self, image: Image.Image) -> Tensor:
        return to_tensor(image.resize((8, 8)))


class FineEncoder(VisionEncoder):
    """It cannot be trained: there is no `save`."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.shape = spec.shape()
        self.patch = nn.Conv2d(3, 6, 4, 4)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    @classmethod
    def build(cls, spec: Any, loading: Loading) -> VisionEncoder:
        return cls(spec).to(loading.dtype)

    @classmethod
    def preprocessing(cls, spec: Any) -> Preprocessing:
        return Pixels()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.patch(pixels).flatten(2).transpose(1, 2)


class Sociable(FineEncoder):
    """Views see each other."""

    def forward(self, pixels: Tensor) -> Tensor:
        features = super().forward(pixels)
        return features - 0.5 * features.mean(0, keepdim=True)


class Normed(FineEncoder):
    """A batch norm takes the statistics of all views of a batch while it trains."""

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.norm(self.patch(pixels)).flatten(2).transpose(1, 2)


class Restless(FineEncoder):
    """A buffer moves while it is frozen."""

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen += len(pixels)
        return super().forward(pixels)


class FineSplitter(ImageSplitter):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.end = nn.Parameter(torch.randn(width))

    @classmethod
    def build(cls, spec: Any, width: int) -> ImageSplitter:
        return cls(width)

    @staticmethod
    def split(spec: Any, image: Image.Image, layout: TileLayout, background: tuple[int, int, int]) -> list[Image.Image]:
        return [image]

    def merge(self, features: Tensor, layout: TileLayout) -> Tensor:
        ends = self.end.to(features.dtype).expand(layout.tokens - features.shape[1], -1)
        return torch.cat([features.flatten(0, 1), ends])


class Leaky(HfCausalLanguageModel):
    """Samples that are packed into a row see each other."""

    def forward(self, embeds: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
        return super().forward(embeds, positions, segments.clamp(max=1))


class Capped(HfCausalLanguageModel):
    """Something happens to the logits that `projection` does not tell."""

    def head(self, hidden: Tensor) -> Tensor:
        return super().head(hidden).tanh()


class FineTalk(Conversation):
    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def render(self, turns: Sequence[Turn], *, reply: bool = False) -> list[Segment]:
        segments: list[Segment] = [Segment(self.greeting())]
        for turn in turns:
            segments.append(Segment("Q: " if turn.role == "user" else " A: "))
            for part in turn.parts:
                segments.append(Segment(kind="image") if part is None else Segment(part, self.learnt(turn)))
            if turn.role == "assistant":
                segments.append(self.end())
        return [*segments, Segment(" A: ")] if reply else segments

    def greeting(self) -> str:
        return ""

    def learnt(self, turn: Turn) -> bool:
        return turn.role == "assistant"

    def end(self) -> Segment:
        return Segment(supervised=True, kind="eos")


class Asking(FineTalk):
    """The question is learnt too."""

    def learnt(self, turn: Turn) -> bool:
        return True


class Endless(FineTalk):
    """The end of an answer is not learnt."""

    def end(self) -> Segment:
        return Segment(kind="eos")


class Moody(FineTalk):
    """It greets as it likes."""

    def greeting(self) -> str:
        return f"Hello {random.SystemRandom().random()}. "


class FineTuner(Tuner):
    parts = ("connector.",)

    def prepare(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(self.parts))

    def groups(self, model: nn.Module) -> list[ParameterGroup]:
        return [ParameterGroup("all", tuple(n for n, p in model.named_parameters() if p.requires_grad))]

    def save(self, model: nn.Module, folder: Path, state: dict[str, Tensor]) -> list[str]:
        return []

    def load(self, model: nn.Module, folder: Path, *, trainable: bool) -> None:
        pass


class Neglectful(FineTuner):
    """A tensor that it trains is in no group."""

    def groups(self, model: nn.Module) -> list[ParameterGroup]:
        [group] = super().groups(model)
        return [ParameterGroup("all", group.names[1:])]


class Lost(FineTuner):
    """It trains the language model and does not save it."""

    parts = ("connector.", "language_model.")


class BitFit(FineTuner):
    """What it trains of the language model goes into a folder of its own, as the interface allows."""

    def prepare(self, model: Any) -> None:
        for name, parameter in model.named_parameters():
            inside = name.startswith("language_model.") and parameter.ndim == 1
            parameter.requires_grad_(inside or name.startswith(self.parts))

    def save(self, model: nn.Module, folder: Path, state: dict[str, Tensor]) -> list[str]:
        (folder / "bitfit").mkdir()
        own = {n: t.contiguous() for n, t in state.items() if n.startswith("language_model.") and t.ndim == 1}
        save_file(own, folder / "bitfit" / "vectors.safetensors")
        return ["bitfit"]

    def load(self, model: nn.Module, folder: Path, *, trainable: bool) -> None:
        with torch.no_grad():
            for name, tensor in load_file(folder / "bitfit" / "vectors.safetensors").items():
                model.get_parameter(name).copy_(tensor)


class Fickle(BitFit):
    """Its merge takes out what its load put in."""

    def load(self, model: nn.Module, folder: Path, *, trainable: bool) -> None:
        self.before = {n: p.detach().clone() for n, p in model.named_parameters() if p.ndim == 1}
        super().load(model, folder, trainable=trainable)

    def merge(self, model: nn.Module) -> None:
        with torch.no_grad():
            for name, tensor in self.before.items():
                model.get_parameter(name).copy_(tensor)


class FineBenchmark(Benchmark):
    read = Reader()

    def items(self, data: Path, images: Path) -> list[Item]:
        return [Item(row["id"], row["question"], (), row["answer"]) for row in self._rows(data)]

    def score(self, predictions: Predictions, data: Path, judge: Any = None) -> Scores:
        notes: list[str] = []
        rows = self._rows(data)
        given = by_question(predictions.rows, [row["id"] for row in rows], notes)
        if len(given) < len(rows):
            notes.append("an answer is missing")
        scores = self._scores(rows, {identity: row.text for identity, row in given.items()})
        samples = [SampleScore(row["id"], 1.0, "") for row in rows]
        return Scores("accuracy", {"accuracy": 100 * sum(scores) / len(scores)}, samples, (), notes)

    def _scores(self, rows: Any, replies: Any) -> list[float]:
        return [float(replies.get(row["id"]) == row["answer"]) for row in rows]

    @staticmethod
    def _rows(data: Path) -> Any:
        return [line.value for line in read_json_lines(data / "questions.jsonl")]


class Forgiving(FineBenchmark):
    """It counts what is there."""

    def _scores(self, rows: Any, replies: Any) -> list[float]:
        return [float(replies[row["id"]] == row["answer"]) for row in rows if row["id"] in replies]


class Deaf(Exporter):
    """It does not read what it wrote."""

    def write(self, held: Any, folder: Path) -> Sequence[str]:
        write_file(folder / "connector.safetensors", held.small("connector"))
        return []

    def logits(self, held: Any, folder: Path, probes: Any) -> list[Tensor]:
        return logits(held.model(), [probe.sample for probe in probes])
