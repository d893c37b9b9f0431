"""What may be chosen of exported files, and what the formats cannot express. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lensmith import ExporterSpec, Problem, TunerSpec, VisionEncoderSpec
from lensmith_plugins.connectors.specs import IdentitySpec, LinearSpec, MlpSpec
from lensmith_plugins.image_splitters.specs import AnyresSpec, PadSpec, SquareSpec
from lensmith_plugins.language_models.specs import CausalSpec
from lensmith_plugins.tuners.lora_spec import LoraSpec
from lensmith_plugins.tuners.peft_spec import PeftSpec
from lensmith_plugins.vision_encoders.transformers_specs import ClipSpec, SiglipSpec

if TYPE_CHECKING:
    from lensmith.spec.run import ModelSpec

HF_DECODERS = ("llama", "mistral", "qwen2", "qwen3")
LLAVA_DECODERS = ("llama", "mistral")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
HF_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu", "silu": "silu"}
"""Name in transformers of the projector's activation."""


def wears_adapters(tuner: TunerSpec | None) -> bool:
    """Whether a tuner leaves adapters beside the weights."""
    return isinstance(tuner, (LoraSpec, PeftSpec))


def _name(part: Any) -> str:
    return repr(getattr(part, "name", type(part).__name__))


def _decoder(model: ModelSpec, types: Sequence[str]) -> Iterator[Problem]:
    spec = model.language_model
    path = "model.language_model"
    if not isinstance(spec, CausalSpec):
        yield Problem(path, f"{_name(spec)} is not a model of transformers")
        return
    try:
        kind = spec.read_config().get("model_type")
    except (OSError, ValueError) as error:
        yield Problem(path, str(error))
        return
    if kind not in types:
        yield Problem(path, f"its architecture is {kind!r}; it may be {', '.join(types)}")


def _padding(splitter: PadSpec, encoder: VisionEncoderSpec) -> Iterator[Problem]:
    settings = encoder.preprocessor() if isinstance(encoder, (ClipSpec, SiglipSpec)) else None
    mean = tuple((settings or {}).get("image_mean", CLIP_MEAN))
    own = tuple(int(value * 255) for value in mean)
    if splitter.color not in (None, own):
        yield Problem(
            "model.image_splitter.color",
            f"pictures are padded with {list(splitter.color or ())}, there always with the mean, {list(own)}; leave it"
            " out",
        )


class HfExportSpec(ExporterSpec):
    """A folder that plain transformers loads as LlavaForConditionalGeneration (one view a picture) or
    LlavaNextForConditionalGeneration (the anyres splitter), with its processor."""

    image_token: str = Field("<image>", pattern=r"^<[^<>\s]+>$")
    """The special token that stands for a picture's positions; added where the tokenizer lacks it. Default
    `<image>`."""

    vocabulary_multiple: int = Field(64, ge=1)
    """Embeddings that must grow for it are rounded up to a multiple of this. Default 64."""

    def refusals(self, model: ModelSpec, tuner: TunerSpec | None, *, merge: bool | None) -> Sequence[Problem]:
        """See `ExporterSpec.refusals`."""
        return [*self._parts(model), *_decoder(model, HF_DECODERS), *self._tokenizer(model), *_worn(tuner, merge)]

    def _parts(self, model: ModelSpec) -> Iterator[Problem]:
        encoder, connector, splitter = model.vision_encoder, model.connector, model.image_splitter
        if not isinstance(encoder, (ClipSpec, SiglipSpec)):
            yield Problem("model.vision_encoder", f"the {_name(encoder)} encoder; it may be clip or siglip")
        if not isinstance(connector, MlpSpec):
            yield Problem("model.connector", f"the {_name(connector)} connector; there is always an mlp of depth 2")
        elif connector.depth != 2 or connector.input_norm:
            yield Problem(
                "model.connector",
                f"an mlp of depth {connector.depth} {'with' if connector.input_norm else 'without'} input_norm; there"
                " is always one of depth 2 without",
            )
        if isinstance(splitter, PadSpec):
            yield from _padding(splitter, encoder)
            if isinstance(encoder, SiglipSpec):
                yield Problem("model.image_splitter", "padding with a siglip encoder; set image_splitter: square")
        elif isinstance(splitter, AnyresSpec):
            if splitter.merge != "spatial_unpad" or splitter.grids == []:
                told = f"anyres with merge {splitter.merge!r}" if splitter.grids != [] else "anyres without grids"
                yield Problem("model.image_splitter", f"{told}; LlavaNext always has grids and merge: spatial_unpad")
            if isinstance(encoder, SiglipSpec):
                yield Problem("model.image_splitter", "anyres with a siglip encoder; only with clip")
        elif not isinstance(splitter, SquareSpec):
            yield Problem("model.image_splitter", f"the {_name(splitter)} splitter; it may be square, pad or anyres")

    def _tokenizer(self, model: ModelSpec) -> Iterator[Problem]:
        if getattr(model.language_model, "tokenization", "auto") == "transformers-4.31":
            yield Problem(
                "model.language_model.tokenization",
                "no tokenizer file says what transformers 4.31 made of text after `</s>`; override it with"
                " language_model.tokenization=sentencepiece, which only turns after the first differ in",
            )


class LlavaExportSpec(ExporterSpec):
    """The layout that the original LLaVA's loader reads: a whole model, or, of an artifact with LoRA adapters that are
    not merged, its LoRA folder. Weights of the vision encoder are written where the artifact holds them."""

    vision_tower: str | None = None
    """`mm_vision_tower` of its config: the folder or hub id that the original loader takes CLIP from. Default none: the
    encoder's checkpoint as the artifact names it."""

    def refusals(self, model: ModelSpec, tuner: TunerSpec | None, *, merge: bool | None) -> Sequence[Problem]:
        """See `ExporterSpec.refusals`."""
        return [*self._parts(model), *_decoder(model, LLAVA_DECODERS), *self._adapters(tuner, merge)]

    def _parts(self, model: ModelSpec) -> Iterator[Problem]:
        encoder, connector, splitter = model.vision_encoder, model.connector, model.image_splitter
        if not isinstance(encoder, ClipSpec):
            yield Problem("model.vision_encoder", f"the {_name(encoder)} encoder; there is only clip")
        elif encoder.checkpoint is None and self.vision_tower is None:
            yield Problem("model.vision_encoder", "it has no checkpoint to name; say vision_tower=FOLDER")
        if isinstance(connector, MlpSpec):
            if connector.input_norm or connector.activation != "gelu":
                told = f"activation {connector.activation}{', input_norm' if connector.input_norm else ''}"
                yield Problem("model.connector", f"an mlp with {told}; there is only gelu, without input_norm")
        elif not isinstance(connector, (LinearSpec, IdentitySpec)):
            yield Problem("model.connector", f"the {_name(connector)} connector; it may be linear, mlp or identity")
        if isinstance(splitter, PadSpec):
            yield from _padding(splitter, encoder)
        elif not isinstance(splitter, (SquareSpec, AnyresSpec)):
            yield Problem("model.image_splitter", f"the {_name(splitter)} splitter; it may be square, pad or anyres")
        tags = getattr(model.conversation, "image_tags", None)
        if tags is not None and tuple(tags) != ("<im_start>", "<im_end>"):
            yield Problem("model.conversation.image_tags", f"{list(tags)} around pictures; only <im_start>, <im_end>")

    def _adapters(self, tuner: TunerSpec | None, merge: bool | None) -> Iterator[Problem]:
        if merge is not False or not wears_adapters(tuner):
            return
        if not isinstance(tuner, LoraSpec):
            yield Problem("tuner", f"adapters of {_name(tuner)}; its loader reads LoRA alone: merge them with --merge")
        elif set(tuner.targets) != {"language_model"}:
            yield Problem("tuner.targets", "adapters on the vision encoder; merge them with --merge")


class PeftExportSpec(ExporterSpec):
    """The language model's adapters in PEFT's format. Connector and vision encoder are not in it."""

    def refusals(self, model: ModelSpec, tuner: TunerSpec | None, *, merge: bool | None) -> Sequence[Problem]:
        """See `ExporterSpec.refusals`."""
        problems = []
        if merge:
            problems.append(Problem("tuner", "merged adapters; leave --merge out"))
        if tuner is None or not wears_adapters(tuner):
            told = "nothing was trained" if tuner is None else f"the {_name(tuner)} tuner makes none"
            problems.append(Problem("tuner", f"there are no adapters ({told}); export --to hf or llava"))
        elif isinstance(tuner, LoraSpec) and set(tuner.targets) != {"language_model"}:
            problems.append(Problem("tuner.targets", "adapters on the vision encoder; only the language model's"))
        if not isinstance(model.language_model, CausalSpec):
            problems.append(Problem("model.language_model", "it is not a model of transformers, which PEFT wraps"))
        elif model.language_model.layers is not None and not model.language_model.whole():
            told = f"the first {model.language_model.layers} blocks of a base that PEFT would load whole"
            problems.append(Problem("model.language_model.layers", f"{told}; merge the adapters: `lensmith merge`"))
        return problems


def _worn(tuner: TunerSpec | None, merge: bool | None) -> Iterator[Problem]:
    if wears_adapters(tuner) and merge is False:
        yield Problem("tuner", f"adapters of {_name(tuner)} beside the weights; merge them with --merge")
