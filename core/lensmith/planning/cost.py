"""Closed-form cost of a model: FLOPs a row and memory a GPU, from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass

from lensmith.interfaces.shapes import LanguageShape, Parameters, VisionShape
from lensmith.interfaces.specs import TunerSpec

_ADAM_BYTES = 12.0  # fp32 master copy and two moments


@dataclass(frozen=True)
class Memory:
    """Bytes a GPU at one ZeRO stage."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """All three; activations come on top."""
        return self.weights + self.gradients + self.optimizer


def training_flops(
    language: LanguageShape,
    encoder: VisionShape,
    *,
    positions: int,
    views: int,
    adapters: int,
    full: bool,
    encoder_trains: bool = False,
    recompute: bool = False,
) -> float:
    """FLOPs of one training row: two for each weight and position, matrix products alone.

    The connector is left out; it is below one per cent of LLaVA's. With `recompute`, ratios between models follow the
    hours that the scaling study published (arXiv 2309.09958, table 4) within ten per cent.

    Args:
        language, encoder: the shapes.
        positions: T of the row, logits at all of them.
        views: pictures' views in the row.
        adapters: parameters that train in a language model whose own weights do not.
        full: the language model's weights train.
        encoder_trains: the vision encoder's weights train.
        recompute: activation checkpointing, which runs the decoder forward once more.
    """
    linear = 2.0 * sum(p.numel for p in language.parameters if p.linear and p.name != language.head) * positions
    # Scores and their use, two FLOPs a head channel and pair each; causal, so half of all pairs.
    attention = 2.0 * language.layers * positions * positions * language.heads * language.head_width
    head = 2.0 * language.width * language.vocabulary * positions
    forward = linear + attention + head
    # Gradients of activations: a product has two factors, and both of attention's are activations.
    backward = linear + 2 * attention + head
    if full:
        backward += linear + head  # gradients of weights
    again = linear + attention if recompute else 0.0
    pictures = views * encoder.flops_per_view * (3 if encoder_trains else 1)
    return forward + backward + again + 6.0 * adapters * positions + pictures


def bytes_of(precision: str) -> tuple[float, float]:
    """Bytes of a weight, and of AdamW's state for one that trains, in a stage's precision.

    Args:
        precision: fp32, bf16, fp16 or auto, which is bf16 on a GPU that has it.
    """
    return (4.0, 8.0) if precision == "fp32" else (2.0, _ADAM_BYTES)


def memory(
    tuner: TunerSpec,
    parts: dict[str, Parameters],
    *,
    zero: int,
    world: int,
    bytes_per_weight: float,
    optimizer_bytes: float = _ADAM_BYTES,
) -> Memory:
    """Bytes a GPU for weights, gradients and the optimiser's state.

    Args:
        tuner: what trains, and how the rest is held.
        parts: every tensor of the model by part name, as `Dimensions.parameters` gives them.
        zero: ZeRO stage: 1 shards the optimiser's state, 2 also gradients, 3 also weights.
        world: GPUs.
        bytes_per_weight: 2 for bf16, 4 for fp32.
        optimizer_bytes: of its state for each weight that trains; by default AdamW's behind bf16 weights.
    """
    own = {f"{part}.{p.name}" for part, table in parts.items() for p in table}
    trainable = tuner.trainable(parts)
    trained = numel(trainable)
    weights = tuner.weight_bytes(parts, bytes_per_weight=bytes_per_weight)
    weights += bytes_per_weight * sum(p.numel for p in trainable if p.name not in own)
    return Memory(
        weights=weights / (world if zero >= 3 else 1),
        gradients=bytes_per_weight * trained / (world if zero >= 2 else 1),
        optimizer=optimizer_bytes * trained / (world if zero >= 1 else 1),
    )


def numel(parameters: Parameters) -> int:
    """Elements of all tensors."""
    return sum(parameter.numel for parameter in parameters)
