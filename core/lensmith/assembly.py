"""Build a model from its spec: parts loaded as the tuner wants, joined by their shapes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lensmith import parts
from lensmith.data.sample import PicturePipeline
from lensmith.dims import LARGE_PARTS, join
from lensmith.errors import LensmithError
from lensmith.features.refusals import drawn_views
from lensmith.interfaces.loading import Loading
from lensmith.interfaces.text import Conversation
from lensmith.model import MultimodalModel
from lensmith.spec.build import load_spec
from lensmith.spec.pictures import PicturePolicy
from lensmith.spec.run import ModelSpec, RunSpec
from lensmith_registry import Kind

if TYPE_CHECKING:
    from lensmith.interfaces.tuner import Tuner


def assemble(
    spec: RunSpec | ModelSpec | Mapping[str, Any] | str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    tuner: Tuner | None = None,
    conversation: Conversation | None = None,
    policy: PicturePolicy | None = None,
    seed: int = 0,
    pretrained_connector: bool = True,
) -> MultimodalModel:
    """Build the model that a spec describes, with the weights its parts name.

    Args:
        spec: a run spec (file, mapping or object), or its `model` section as an object.
        dtype: floating type of the weights.
        tuner: decides how parts are loaded, where it must (4-bit).
        conversation: template for `generate`; by default the spec's.
        policy: how picture files are read.
        seed: of fresh weights (connector, splitter vectors).
        pretrained_connector: load the weights that the connector's spec names; False where an artifact's follow.

    Raises:
        SpecError: mistakes in the spec.
        LensmithError: weights that are missing or do not fit, parts that do not fit each other.
    """
    model = spec if isinstance(spec, ModelSpec) else load_spec(spec).model
    loading = tuner.loading(dtype) if tuner else {}
    plain = Loading(dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return _assemble(model, loading, plain, conversation, policy or PicturePolicy(), pretrained_connector)
        except (OSError, ValueError) as error:
            if isinstance(error, LensmithError):
                raise
            raise LensmithError(str(error)) from error


def _assemble(
    model: ModelSpec,
    loading: Mapping[str, Loading],
    plain: Loading,
    conversation: Conversation | None,
    policy: PicturePolicy,
    pretrained_connector: bool,
) -> MultimodalModel:
    encoder_class = parts.implementation(Kind.VISION_ENCODER, model.vision_encoder)
    splitter_class = parts.implementation(Kind.IMAGE_SPLITTER, model.image_splitter)
    connector_class = parts.implementation(Kind.CONNECTOR, model.connector)
    language_class = parts.implementation(Kind.LANGUAGE_MODEL, model.language_model)
    template = conversation or parts.conversation(model)
    parts.require_sources(model)

    encoder = encoder_class.build(model.vision_encoder, loading.get("vision_encoder", plain))
    language_model = language_class.build(model.language_model, loading.get("language_model", plain))
    dimensions = join(model, encoder=encoder.shape, language=language_model.shape)
    width = dimensions.language_model.width
    connector = connector_class.build(model.connector, encoder.shape, width)
    if not hasattr(connector, "shape"):
        connector.shape = dimensions.connector
    vocabulary = dimensions.language_model.vocabulary
    sample = torch.arange(0, vocabulary, max(1, vocabulary // 4096))
    with torch.no_grad():
        # A tuner may have put the language model elsewhere (4-bit weights are made on the GPU).
        sample = sample.to(next(language_model.parameters()).device)
        connector.calibrate(language_model.embed(sample).float().cpu())
    if pretrained_connector:
        for note in connector.load_pretrained(model.connector):
            warnings.warn(note, stacklevel=4)
    splitter = splitter_class.build(model.image_splitter, width).to(plain.dtype)
    pictures = PicturePipeline(
        policy=policy,
        splitter=splitter_class,
        splitter_spec=model.image_splitter,
        preprocessing=encoder_class.preprocessing(model.vision_encoder),
        encoder=encoder.shape,
        connector=dimensions.connector,
        drawn=drawn_views(model.vision_encoder, model.image_splitter) is not None,
    )
    assembled = MultimodalModel(model, encoder, splitter, connector.to(plain.dtype), language_model, template, pictures)
    assembled.changed.update(part for part in LARGE_PARTS if getattr(model, part).fresh())
    assembled.remember()
    return assembled
