"""Specs of the tuners, with the exact list of what each trains."""

from __future__ import annotations

import difflib

from pydantic import Field

from lensmith import Parameters, ParameterShape, TunerSpec, qualify

_BRIDGE = ("connector", "image_splitter")


def _bridge(parts: dict[str, Parameters]) -> Parameters:
    return tuple(p for part in _BRIDGE for p in qualify(part, parts.get(part, ())))


class FrozenSpec(TunerSpec):
    """Connector and splitter vectors train; encoder and language model are frozen (arXiv 2304.08485, section 4.2)."""

    connector_lr: float | None = Field(None, gt=0)
    """Learning rate of the connector; by default the stage's."""

    def trainable(self, parts: dict[str, Parameters]) -> Parameters:
        """Connector and splitter."""
        trained = _bridge(parts)
        if not trained:
            raise ValueError("neither the connector nor the splitter has weights, so nothing would train")
        return trained


class FullSpec(TunerSpec):
    """Whole parts train."""

    connector: bool = True
    """Train the connector and the splitter's vectors."""
    language_model: bool = True
    """Train the language model."""
    vision_encoder: bool = False
    """Train the vision encoder."""
    connector_lr: float | None = Field(None, gt=0)
    """Learning rate of the connector; by default the stage's."""
    language_model_lr: float | None = Field(None, gt=0)
    """Learning rate of the language model; by default the stage's."""
    vision_encoder_lr: float | None = Field(None, gt=0)
    """Learning rate of the vision encoder; by default the stage's."""

    def trainable(self, parts: dict[str, Parameters]) -> Parameters:
        """Every tensor of the chosen parts."""
        chosen = _bridge(parts) if self.connector else ()
        for part, wanted in (("language_model", self.language_model), ("vision_encoder", self.vision_encoder)):
            if wanted:
                chosen += qualify(part, parts.get(part, ()))
        if not chosen:
            raise ValueError("nothing would train; set one of connector, language_model, vision_encoder to true")
        return chosen


class LoraSpec(TunerSpec):
    """Low-rank adapters (arXiv 2106.09685) on linear layers of the language model; the connector trains in full."""

    rank: int = Field(64, ge=1)
    """Rank of the update."""
    alpha: float | None = Field(None, gt=0)
    """Scale: the update is multiplied by alpha / rank. By default 2 × rank, the scaling study's finding."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the adapter."""
    targets: list[str] | None = Field(None, min_length=1)
    """Linear layers of the language model by the end of their names, e.g. `[q_proj, v_proj]`; by default all of them
    except the output head."""
    connector: bool = True
    """Train the connector and the splitter's vectors in full beside the adapters."""
    connector_lr: float | None = Field(None, gt=0)
    """Learning rate of the connector; by default the stage's."""

    @property
    def scale(self) -> float:
        """Alpha, its default resolved."""
        return self.alpha if self.alpha is not None else 2.0 * self.rank

    def adapted(self, language_model: Parameters) -> Parameters:
        """The weights of the linear layers that get an adapter.

        Raises:
            ValueError: a target that matches no linear layer, with those there are.
        """
        linears = tuple(p for p in language_model if p.linear)
        if self.targets is None:
            return linears
        chosen: set[str] = set()
        leaves = sorted({_layer(p).rpartition(".")[2] for p in linears})
        for target in self.targets:
            matching = {p.name for p in linears if _layer(p) == target or _layer(p).endswith(f".{target}")}
            if not matching:
                close = difflib.get_close_matches(target, leaves, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise ValueError(
                    f"target {target!r} is no linear layer of the language model.{hint} There are: {', '.join(leaves)}."
                )
            chosen |= matching
        return tuple(p for p in linears if p.name in chosen)

    def trainable(self, parts: dict[str, Parameters]) -> Parameters:
        """Two factors for each adapted layer, and the connector."""
        trained: list[ParameterShape] = []
        for weight in self.adapted(parts.get("language_model", ())):
            outputs, inputs = weight.shape
            layer = f"language_model.{_layer(weight)}"
            trained.append(ParameterShape(f"{layer}.lora_A.default.weight", (self.rank, inputs), linear=True))
            trained.append(ParameterShape(f"{layer}.lora_B.default.weight", (outputs, self.rank), linear=True))
        return (_bridge(parts) if self.connector else ()) + tuple(trained)


def _layer(weight: ParameterShape) -> str:
    return weight.name.removesuffix(".weight")
