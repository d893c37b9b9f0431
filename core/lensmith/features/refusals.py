"""When features cannot be kept, as far as the spec says it. No torch here."""

from __future__ import annotations

from lensmith.interfaces.shapes import Parameters
from lensmith.interfaces.specs import ImageSplitterSpec, VisionEncoderSpec
from lensmith.parts import nested_parts

ENCODER_TRAINS = "the tuner trains the vision encoder, so that its features change; set cache: off for this stage"


def drawn_views(*specs: VisionEncoderSpec | ImageSplitterSpec) -> str | None:
    """Why the views of these parts, or of a part inside one, cannot be kept; None where they can."""
    for spec in specs:
        for part in (spec, *(inside for _, _, inside in nested_parts(spec))):
            if isinstance(part, (VisionEncoderSpec, ImageSplitterSpec)) and part.draws_views():
                name = getattr(part, "name", type(part).__name__)
                return f"{name!r} draws the views of a picture anew each time; set cache: off"
    return None


def encoder_trains(trainable: Parameters) -> str | None:
    """Why a stage that trains these tensors cannot keep features; None where it can."""
    return ENCODER_TRAINS if any(p.name.startswith("vision_encoder.") for p in trainable) else None
