"""What the encoders of this package share: a wrapped network that is saved under its own names."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from lensmith import VisionEncoder
from lensmith_plugins.compat.transformers import checkpoint_activations


class WrappedEncoder(VisionEncoder):
    """A vision encoder around somebody's network."""

    network: nn.Module
    """The wrapped model, without what lies past the selected features."""

    @abc.abstractmethod
    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write the network as a folder that `relocated` of the spec points to.

        Args:
            folder: an empty folder.
            state: gathered weights by this encoder's names (`network.…`), where they are sharded over ranks;
                else the module's own.

        Raises:
            ValueError: `state` lacks parameters, by name.
        """

    def checkpoint_activations(self) -> bool:
        """See `LanguageModel.checkpoint_activations`; networks of transformers can."""
        return checkpoint_activations(self.network)

    def network_state(self, state: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """The network's tensors by its own names, parameters taken from `state` where it is given (see `save`)."""
        own = dict(self.network.state_dict())
        if state is None:
            return own
        # Not the module's own names, which are others while it wears adapters.
        wanted = [parameter.name.removeprefix("network.") for parameter in self.shape.parameters]
        given = {name.removeprefix("network."): tensor for name, tensor in state.items()}
        if missing := [name for name in wanted if name not in given]:
            raise ValueError(f"the weights to save lack {some(missing)}")
        # Buffers are whole on every rank, and often not among gathered weights.
        buffers = {name: given.get(name, b) for name, b in self.network.named_buffers() if name in own}
        return {name: given[name] for name in wanted} | buffers


def some(names: Iterable[str], limit: int = 6) -> str:
    """The first names of a list for an error message, and how many more there are."""
    names = list(names)
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
