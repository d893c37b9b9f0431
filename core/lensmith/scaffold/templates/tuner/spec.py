"""What a spec file may say of the tuner, and exactly what trains. Every command imports this: no torch here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lensmith import Parameters, TunerSpec, qualify


class ExamplePartSpec(TunerSpec):
    """Connector and splitter train in full; of the language model every vector does: norms and biases."""

    connector_lr: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of connector and splitter. Default none: the stage's."""

    def trainable(self, parts: dict[str, Parameters]) -> Parameters:
        """The exact tensors that train, each with its part's name in front.

        Args:
            parts: every tensor of the model by part name.
        """
        vectors = tuple(tensor for tensor in parts["language_model"] if len(tensor.shape) == 1)
        bridge = qualify("connector", parts["connector"]) + qualify("image_splitter", parts["image_splitter"])
        return bridge + qualify("language_model", vectors)
