"""Specs of LoRA and QLoRA. No torch here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lensmith import Parameters, ParameterShape
from lensmith.interfaces.bounds import Sizes
from lensmith_plugins.tuners.rows_spec import RowsSpec
from lensmith_plugins.tuners.specs import bridge
from lensmith_plugins.tuners.targets import ALL, as_targets, layer, matching

AdaptedPart = Literal["language_model", "vision_encoder"]
_Names = Annotated[list[str], Field(min_length=1)]


class LoraSpec(RowsSpec):
    """Low-rank adapters (arXiv 2106.09685) on linear layers; the connector trains in full beside them."""

    rank: Sizes = 64
    """Rank of the update."""
    alpha: float | None = Field(None, gt=0)
    """Scale: the update is multiplied by alpha / rank. By default 2 × rank, the scaling study's finding."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the adapter."""
    rslora: bool = False
    """Multiply by alpha / √rank instead (rsLoRA, arXiv 2312.03732), so that high ranks go on learning."""
    dora: bool = False
    """Train direction and magnitude of each weight apart (DoRA, arXiv 2402.09353)."""
    init: Literal["kaiming", "gaussian", "orthogonal"] = "kaiming"
    """How the factors start: A random and B zero (`kaiming`, `gaussian`), or both random on orthogonal subspaces, so
    that their product is zero (even ranks only). Starts that change the base weights (PiSSA, OLoRA, LoftQ) are left
    out: an adapter made of them does not fit the base that its artifact names."""
    targets: Annotated[
        dict[AdaptedPart, _Names],
        BeforeValidator(as_targets, json_schema_input_type=dict[AdaptedPart, _Names | str] | list[str] | str),
    ] = Field({"language_model": [ALL]}, min_length=1)
    """Linear layers by part, by the end of their names: `{language_model: [q_proj, v_proj], vision_encoder: all}`.
    A list without a part is of the language model. By default all of the language model except the output head, and
    none of the vision encoder."""
    connector: bool = True
    """Train the connector and the splitter's vectors in full beside the adapters."""
    connector_lr: float | None = Field(None, gt=0)
    """Learning rate of the connector; by default the stage's."""
    vision_encoder_lr: float | None = Field(None, gt=0)
    """Learning rate of the adapters on the vision encoder; by default the stage's."""

    @model_validator(mode="after")
    def _even_rank(self) -> LoraSpec:
        if self.init == "orthogonal" and self.rank % 2:
            raise ValueError(f"init orthogonal needs an even rank, not {self.rank}")
        return self

    @classmethod
    def tiny(cls, folder: Path) -> LoraSpec:
        """See `PartSpec.tiny`."""
        return cls(rank=2)

    @property
    def scale(self) -> float:
        """Alpha, its default resolved."""
        return self.alpha if self.alpha is not None else 2.0 * self.rank

    def lasting(self) -> dict[str, Any]:
        """See `TunerSpec.lasting`: no dropout, no learning rates, nor how the factors start."""
        return {
            "rank": self.rank,
            "alpha": self.scale,
            "rslora": self.rslora,
            "dora": self.dora,
            "added_tokens": self.added_tokens,
            "targets": {part: sorted(set(names)) for part, names in sorted(self.targets.items())},
        }

    def adapted(self, parts: dict[str, Parameters]) -> dict[str, Parameters]:
        """The weights of the linear layers that get an adapter, by part.

        Args:
            parts: every tensor by part, the output head not marked as linear.

        Raises:
            ValueError: a target that matches no linear layer, with those there are.
        """
        return {part: matching(part, names, parts.get(part, ())) for part, names in self.targets.items()}

    def training(self, part: str) -> LoraSpec | None:
        """See `TunerSpec.training`: adapters on all linear layers of the part."""
        if part not in ("language_model", "vision_encoder"):
            return None
        return self.model_copy(update={"targets": {**self.targets, part: [ALL]}})

    def trainable(self, parts: dict[str, Parameters]) -> Parameters:
        """Two factors (with DoRA, a magnitude too) for each adapted layer, and the connector."""
        trained: list[ParameterShape] = []
        for part, weights in self.adapted(parts).items():
            for weight in weights:
                outputs, inputs = weight.shape
                name = f"{part}.{layer(weight)}"
                trained.append(ParameterShape(f"{name}.lora_A.default.weight", (self.rank, inputs), linear=True))
                trained.append(ParameterShape(f"{name}.lora_B.default.weight", (outputs, self.rank), linear=True))
                if self.dora:
                    trained.append(ParameterShape(f"{name}.lora_magnitude_vector.default.weight", (outputs,)))
        return (bridge(parts) if self.connector else ()) + tuple(trained) + self.rows(parts)


class QLoraSpec(LoraSpec):
    """Low-rank adapters over a language model held in 4 bits (arXiv 2305.14314).

    Its linear layers are NF4, in blocks of 64; connector, vision encoder, embeddings, norms and head stay as they are.
    The codes come from the weights in fp32, whatever the precision of the run, so that an artifact is read back as it
    was trained. What is not quantised is held in the run's precision (DeepSpeed casts it all); norms compute in fp32.
    """

    double_quantization: bool = True
    """Quantise the blocks' scales too: 0.37 bits a weight less."""
    compute: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type that the 4-bit layers multiply in; `auto` is the run's precision."""
    quantize_head: bool = False
    """Quantise the output head too, as the original's code did after its scaling study."""

    def lasting(self) -> dict[str, Any]:
        """See `TunerSpec.lasting`: how weights are quantised too."""
        kept = {"double_quantization": self.double_quantization, "quantize_head": self.quantize_head}
        return {**super().lasting(), **kept}

    def weight_bytes(self, parts: dict[str, Parameters], *, bytes_per_weight: float) -> float:
        """4 bits and the scales for each weight of the language model's linear layers; the head counts as whole."""
        quantised = sum(p.numel for p in parts["language_model"] if p.linear)
        scales = 1 / 64 + 4 / (64 * 256) if self.double_quantization else 4 / 64
        whole = super().weight_bytes(parts, bytes_per_weight=bytes_per_weight)
        return whole - (bytes_per_weight - 0.5 - scales) * quantised

    def unmet(self, *, zero: int) -> list[str]:
        """bitsandbytes, and a ZeRO stage that leaves weights whole."""
        unmet = []
        if find_spec("bitsandbytes") is None:
            unmet.append("qlora needs bitsandbytes, which is not installed: pip install 'lensmith[qlora]'")
        if zero == 3:
            unmet.append(
                "qlora cannot run under ZeRO-3, which shards and regathers weights and would corrupt packed 4-bit ones;"
                " set deepspeed.zero to 2 (its weights are a quarter of the size already)"
            )
        return unmet
