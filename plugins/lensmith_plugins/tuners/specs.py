"""Specs of the tuners that train weights as they are, with the exact list of what each trains. No torch here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lensmith import Parameters, qualify
from lensmith_plugins.tuners.layers import LayerSettings, SettingsInput, assign
from lensmith_plugins.tuners.rows_spec import RowsSpec

BRIDGE = ("connector", "image_splitter")
"""The small parts between encoder and language model."""
PARTS = ("connector", "image_splitter", "vision_encoder", "language_model")
"""Every part that has weights."""


def bridge(parts: dict[str, Parameters]) -> Parameters:
    """The tensors of connector and splitter, with their parts' names in front."""
    return tuple(p for part in BRIDGE for p in qualify(part, parts.get(part, ())))


class FrozenSpec(RowsSpec):
    """Connector and splitter vectors train; encoder and language model are frozen (arXiv 2304.08485, section 4.2)."""

    connector_lr: float | None = Field(None, gt=0)
    """Learning rate of the connector; by default the stage's."""

    def trainable(self, parts: dict[str, Parameters]) -> Parameters:
        """Connector and splitter, and the rows of added tokens where asked."""
        trained = bridge(parts) + self.rows(parts)
        if not trained:
            raise ValueError("neither the connector nor the splitter has weights, so nothing would train")
        return trained


class FullSpec(RowsSpec):
    """Whole parts train, or ranges of their layers, each with its own learning rate and weight decay."""

    connector: Annotated[list[LayerSettings], SettingsInput] = Field([LayerSettings()])
    """Train the connector: `true`, `false` or settings. By default all of it."""
    image_splitter: Annotated[list[LayerSettings], SettingsInput] | None = None
    """Train the splitter's vectors; by default with the connector, as it does."""
    language_model: Annotated[list[LayerSettings], SettingsInput] = Field([LayerSettings()])
    """Train the language model: `true`, `false`, settings as `{layers: 16-31, lr: 1e-5}`, or a list of them, one a
    range. By default all of it."""
    vision_encoder: Annotated[list[LayerSettings], SettingsInput] = Field([])
    """Train the vision encoder, likewise. By default nothing of it."""
    connector_lr: float | None = Field(None, gt=0)
    """Learning rate of the connector where its settings name none; by default the stage's."""
    language_model_lr: float | None = Field(None, gt=0)
    """Learning rate of the language model where its settings name none; by default the stage's."""
    vision_encoder_lr: float | None = Field(None, gt=0)
    """Learning rate of the vision encoder where its settings name none; by default the stage's."""

    def settings(self, part: str) -> list[LayerSettings]:
        """What a part trains: its entries, learning rates filled in."""
        if part == "image_splitter" and self.image_splitter is not None:
            entries, lr = self.image_splitter, self.connector_lr
        else:
            own = "connector" if part in BRIDGE else part
            entries, lr = getattr(self, own), getattr(self, f"{own}_lr")
            if part == "image_splitter":  # the connector's layers mean nothing here
                entries = [entry.model_copy(update={"layers": "all"}) for entry in entries[:1]]
        return [entry if entry.lr is not None else entry.model_copy(update={"lr": lr}) for entry in entries]

    def training(self, part: str) -> FullSpec | None:
        """See `TunerSpec.training`."""
        return self.model_copy(update={part: [LayerSettings()]}) if part in PARTS else None

    def trainable(self, parts: dict[str, Parameters]) -> Parameters:
        """Every tensor of the chosen parts and layers.

        Raises:
            ValueError: a layer that a part does not have, with those it has; a tensor that two entries name.
        """
        chosen: Parameters = ()
        for part in PARTS:
            tensors = parts.get(part, ())
            named = {t.name for _, own in assign(part, self.settings(part), tensors) for t in own}
            chosen += qualify(part, tuple(t for t in tensors if t.name in named))
        rows = self.rows(parts)
        if rows and any(p.added for p in chosen):
            raise ValueError(
                "added_tokens: the embeddings or the head train already, these rows with them; set it to false"
            )
        chosen += rows
        if not chosen:
            raise ValueError("nothing would train; set one of connector, language_model, vision_encoder to true")
        return chosen
