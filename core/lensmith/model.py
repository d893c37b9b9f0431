"""The composed model. Its forward is the walk from ids and pixels to the loss, one line a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lensmith.data.batch import Batch
from lensmith.dims import LARGE_PARTS
from lensmith.errors import LensmithError
from lensmith.fused import fused_cross_entropy, usable
from lensmith.interfaces.connector import Connector
from lensmith.interfaces.image_splitter import ImageSplitter
from lensmith.interfaces.language_model import GenerationOptions, LanguageModel
from lensmith.interfaces.modes import hold_still, moving_statistics, trains
from lensmith.interfaces.module_shapes import parameter_shapes
from lensmith.interfaces.shapes import Parameters, TileLayout
from lensmith.interfaces.text import IGNORE_LABEL, Conversation
from lensmith.interfaces.vision_encoder import VisionEncoder
from lensmith.loss import summed_cross_entropy

if TYPE_CHECKING:
    from lensmith.data.image_inputs import ImageInput
    from lensmith.data.sample import PicturePipeline
    from lensmith.inference.scoring import Likelihood
    from lensmith.interfaces.tuner import Tuner
    from lensmith.spec.run import ModelSpec


_INTERFACES: dict[str, type[nn.Module]] = {
    "vision_encoder": VisionEncoder,
    "image_splitter": ImageSplitter,
    "connector": Connector,
    "language_model": LanguageModel,
}


class MultimodalModel(nn.Module):
    """Vision encoder, image splitter, connector and language model, joined through input embeddings.

    Args:
        spec: the parts' spec, kept for the manifest.
        vision_encoder, image_splitter, connector, language_model: the parts.
        conversation: the template that `generate` uses.
        pictures: the pipeline that prepares pictures for these parts.
    """

    def __init__(
        self,
        spec: ModelSpec,
        vision_encoder: VisionEncoder,
        image_splitter: ImageSplitter,
        connector: Connector,
        language_model: LanguageModel,
        conversation: Conversation,
        pictures: PicturePipeline,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.vision_encoder = vision_encoder
        self.image_splitter = image_splitter
        self.connector = connector
        self.language_model = language_model
        self.conversation = conversation.bind(language_model.tokenizer)
        self.pictures = pictures
        self.encodes = True
        """Whether the vision encoder runs in training; not where every rank has all features from the cache."""
        self.changed: set[str] = set()
        """Parts whose weights are no longer those that a user's spec names; an artifact holds them in full."""
        self.plain: frozenset[str] = frozenset()
        """Names of the parameters as they were assembled, without what a tuner added."""
        self.tables: dict[str, Parameters] = {}
        """The same by part with their shapes, as `TunerSpec.trainable` takes them."""
        self._buffers_before: dict[str, Tensor] = {}
        self.tuner: Tuner | None = None
        """Made the adapters that a loaded model wears; `save` writes them through it."""

    def train(self, mode: bool = True) -> MultimodalModel:
        """Set the mode of `nn.Module.train`. What is frozen stays in evaluation mode, whatever a part's own `train`
        does: parts of which nothing trains, and frozen batch norms of the others."""
        super().train(mode)
        for part in self.children():
            if mode and any(True for _ in part.parameters()) and not trains(part):
                part.eval()
            hold_still(part)
        return self

    def moving_statistics(self) -> list[str]:
        """Names of the batch norms whose running statistics move while this model trains."""
        return [f"{part}.{name}" for part, child in self.named_children() for name, _ in moving_statistics(child)]

    def buffers_of(self, part: str) -> dict[str, Tensor]:
        """The buffers of a part that its files hold, by name."""
        module: nn.Module = getattr(self, part)
        held = module.state_dict().keys()
        return {name: buffer for name, buffer in module.named_buffers() if name in held}

    def remember(self) -> None:
        """Note what the freshly assembled parts are, before a tuner puts anything around them."""
        self.plain = frozenset(name for name, _ in self.named_parameters())
        self.tables = {part: parameter_shapes(module) for part, module in self.named_children()}
        self.tables["language_model"] = self.language_model.shape.marked(self.tables["language_model"])
        for part in LARGE_PARTS:
            for name, buffer in self.buffers_of(part).items():
                self._buffers_before[f"{part}.{name}"] = buffer.detach().cpu().clone()

    def moved_buffers(self) -> dict[str, Tensor]:
        """The buffers of encoder and language model that are no longer what the parts were assembled with."""
        moved = {}
        for part in LARGE_PARTS:
            for name, buffer in self.buffers_of(part).items():
                before = self._buffers_before.get(f"{part}.{name}")
                now = buffer.detach().cpu()
                if before is not None and not torch.equal(before.to(now.dtype), now):
                    moved[f"{part}.{name}"] = now
        return moved

    def __setattr__(self, name: str, value: Any) -> None:
        """As `nn.Module`; a part's place takes only what has the part's interface.

        Raises:
            TypeError: it has not, naming both.
        """
        if (interface := _INTERFACES.get(name)) is not None and not isinstance(value, interface):
            raise TypeError(
                f"model.{name} must be a lensmith.{interface.__name__}; a {type(value).__name__} has neither its sizes"
                f" nor its methods. Derive a class from lensmith.{interface.__name__} that holds it"
            )
        super().__setattr__(name, value)

    def forward(self, batch: Batch, *, dummy_picture: bool = False) -> Tensor:
        """Cross-entropy summed over the supervised positions of a batch (there are `batch.target_count`).

        Args:
            batch: see `Batch`.
            dummy_picture: where the batch shows no picture, run an empty one through encoder and connector, so that
                every rank uses the same parameters (its contribution is exactly nothing).
        """
        embeds = self.embed(batch, dummy_picture=dummy_picture)
        hidden = self.language_model(embeds, batch.positions, batch.segments)
        supervised = batch.targets != IGNORE_LABEL
        states, targets = hidden[supervised], batch.targets[supervised]
        projection = self.language_model.projection()
        if projection is not None and usable(projection, states):
            return fused_cross_entropy(projection, states, targets)
        return summed_cross_entropy(self.language_model.head, states, targets, self.language_model.shape.vocabulary)

    def embed(self, batch: Batch, *, dummy_picture: bool = False) -> Tensor:
        """Embeddings (B, T, D) of a batch, picture features in their places.

        Raises:
            LensmithError: the features do not fill exactly the positions that were laid out for them.
        """
        embeds = self.language_model.embed(batch.ids)
        if batch.pixels is None and batch.features is None:
            return embeds + self._nothing(embeds) if dummy_picture else embeds
        views = self.views(batch, dummy_picture=dummy_picture)
        features = self.connect(views, batch.layouts, batch.instructions)
        if len(features) != len(batch.image_positions):
            raise LensmithError(
                f"{len(batch.layouts)} pictures gave {len(features)} features for {len(batch.image_positions)}"
                f" positions of the batch (rows {', '.join(batch.rows)}); a batch comes from `collate` or `pack`"
            )
        flat = embeds.flatten(0, 1).index_copy(0, batch.image_positions, features.to(embeds.dtype))
        return flat.view_as(embeds)

    def views(self, batch: Batch, *, dummy_picture: bool = False) -> Tensor:
        """Features (V, N, W) of all views of a batch, those that came from the cache in their places."""
        if batch.features is None:
            assert batch.pixels is not None
            return self._made(batch.pixels, batch.repeats)
        if batch.pixels is None:
            if dummy_picture and self.encodes:
                self._blank(batch.ids.device)  # as on the ranks that encode: ZeRO-3 gathers weights on all or none
            return batch.features
        made = self._made(batch.pixels, batch.repeats)
        known = [done for done, layout in zip(batch.encoded, batch.layouts, strict=True) for _ in range(layout.views)]
        place = torch.tensor(known, device=made.device)
        merged = made.new_empty(len(known), *made.shape[1:])
        merged[place], merged[~place] = batch.features.to(made.dtype), made
        return merged

    def _made(self, pixels: Tensor, repeats: Tensor | None) -> Tensor:
        """Features of views, those that are shown more than once encoded once."""
        if repeats is None:
            return self.encode(pixels)
        if any(isinstance(m, nn.modules.batchnorm._NormBase) and m.training for m in self.vision_encoder.modules()):
            return self.encode(pixels[repeats])  # whose statistics count how often each is shown
        return self.encode(pixels)[repeats]

    def encode(self, pixels: Tensor) -> Tensor:
        """Features (V, N, W) of views; without autograd where the encoder does not train."""
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in self.vision_encoder.parameters())
        with nullcontext() if trains else torch.no_grad():
            features: Tensor = self.vision_encoder(pixels.to(self._dtype(self.vision_encoder)))
        return features

    def connect(self, features: Tensor, layouts: Sequence[TileLayout], instructions: Sequence[str]) -> Tensor:
        """All pictures' tokens (P, D): views (V, N, W) connected together, then merged picture by picture.

        Args:
            features: of all views, picture by picture.
            layouts: one a picture.
            instructions: one a picture, for a connector that reads them.

        Raises:
            LensmithError: a picture has another number of tokens than its layout says.
        """
        features = features.to(self._dtype(self.connector))
        if self.connector.shape.reads_instruction:
            shown = zip(layouts, instructions, strict=True)
            connected = self.connector(features, [text for layout, text in shown for _ in range(layout.views)])
        else:
            connected = self.connector(features)
        tokens: Tensor = self.image_splitter(connected, layouts)
        return tokens

    def _nothing(self, embeds: Tensor) -> Tensor:
        """Zero that depends on encoder, connector and splitter: the graph of a picture without its effect."""
        shape = self.vision_encoder.shape
        layout = self.pictures.layout(*shape.image_size)
        if self.encodes:
            views = self._blank(embeds.device)
        else:
            views = torch.zeros(layout.views, shape.tokens, shape.width, device=embeds.device)
        # An empty slice keeps the graph and cannot carry a NaN, which a product with zero could; nor may a blank
        # picture's features, whose product with the zero gradient is the connector's.
        features = torch.nan_to_num(views, 0.0, 0.0, 0.0)
        return self.connect(features, (layout,), ("",))[:0].sum().to(embeds.dtype)

    def _blank(self, device: torch.device) -> Tensor:
        """Features (V, N, W) of an empty picture."""
        shape = self.vision_encoder.shape
        layout = self.pictures.layout(*shape.image_size)
        return self.encode(torch.zeros(layout.views, shape.channels, *shape.image_size, device=device))

    def _dtype(self, part: nn.Module) -> torch.dtype:
        return next((p.dtype for p in part.parameters() if p.is_floating_point()), torch.float32)

    def checkpoint_activations(self) -> list[str]:
        """Save memory for time while training (see `LanguageModel.checkpoint_activations`); the parts that can.

        A frozen vision encoder runs without autograd and keeps nothing anyway.
        """
        parts: dict[str, LanguageModel | VisionEncoder] = {"language_model": self.language_model}
        if any(p.requires_grad for p in self.vision_encoder.parameters()):
            parts["vision_encoder"] = self.vision_encoder
        return [name for name, part in parts.items() if part.checkpoint_activations()]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device

    def generate(
        self,
        images: ImageInput | Sequence[ImageInput] | None,
        prompt: str,
        options: GenerationOptions | None = None,
    ) -> str:
        """Answer one question about no, one or several pictures.

        Args:
            images: one image or several, each in any form that `lensmith.decode_image` takes (a path, an image of
                Pillow, bytes, an array, …); in `prompt` they stand where `<image>` does, else in front.
            prompt: the question.
            options: by default greedy, 256 new tokens at most.

        Raises:
            DataError: an unreadable picture, or another number of `<image>` than pictures.
        """
        from lensmith.generation import Question, answer

        return answer(self, [Question.of(images, prompt)], options or GenerationOptions())[0]

    def generate_batch(
        self,
        questions: Sequence[tuple[ImageInput | Sequence[ImageInput] | None, str]],
        options: GenerationOptions | None = None,
        batch_size: int = 8,
    ) -> list[str]:
        """Answers to several questions, the same as one by one (greedy), in their order.

        A picture is encoded once however many questions show it, and what their prompts begin with is decoded once.

        Args:
            questions: pictures and prompt of each, as in `generate`.
            options: as in `generate`.
            batch_size: answers that grow at the same time.

        Raises:
            DataError: a question that cannot be asked.
        """
        from lensmith.generation import Question, answer

        asked = [Question.of(images, prompt) for images, prompt in questions]
        return answer(self, asked, options or GenerationOptions(), batch_size=batch_size)

    def score(
        self,
        questions: Sequence[tuple[ImageInput | Sequence[ImageInput] | None, str]],
        candidates: Sequence[str] | Sequence[Sequence[str]],
        batch_size: int = 64,
    ) -> list[list[Likelihood]]:
        """How likely each candidate is as the whole answer, its end included: minus the loss of training.

        Args:
            questions: pictures and prompt of each, as in `generate`; those about the same pictures share their prefill.
            candidates: answers to score, the same for all questions, or a list for each.
            batch_size: questions that are scored together.

        Returns:
            For each question its candidates' likelihoods, in their order.

        Raises:
            DataError: a question that cannot be asked, or a candidate with nothing in it.
            ValueError: lists of candidates that are not as many as questions.
        """
        from lensmith.generation import Question, score

        asked = [Question.of(images, prompt) for images, prompt in questions]
        same = [candidate for candidate in candidates if isinstance(candidate, str)]
        each = [same] * len(asked) if same else [list(own) for own in candidates]
        if len(each) != len(asked):
            raise ValueError(f"{len(each)} lists of candidates for {len(asked)} questions; give one for each")
        return score(self, asked, each, batch_size)

    def stream(
        self,
        images: ImageInput | Sequence[ImageInput] | None,
        prompt: str,
        options: GenerationOptions | None = None,
    ) -> Iterator[str]:
        """The answer piece by piece, as it is produced."""
        from lensmith.generation import Question, stream

        return stream(self, Question.of(images, prompt), options or GenerationOptions())

    def save(self, folder: str | Path) -> Path:
        """Write the model as an artifact that `lensmith.load` reads; see `lensmith.artifacts`."""
        from lensmith.artifacts import save_model

        return save_model(self, Path(folder))
