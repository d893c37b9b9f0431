"""Does the first step train what the plan says?"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lensmith.errors import TrainingError


class GradientWatch:
    """Checks at the first step that exactly the parameters that should train got a gradient."""

    def __init__(self, model: nn.Module) -> None:
        self.expected = {name for name, p in model.named_parameters() if p.requires_grad}
        self.seen: set[str] = set()
        self._hooks = [
            parameter.register_hook(self._note(name))  # type: ignore[no-untyped-call]
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        ]

    def _note(self, name: str) -> Callable[[Tensor], None]:
        def note(_: Tensor) -> None:
            self.seen.add(name)

        return note

    def verify(self) -> None:
        """Compare and let go.

        Raises:
            TrainingError: parameters that are to train and got no gradient.
        """
        for hook in self._hooks:
            hook.remove()
        silent = sorted(self.expected - self.seen)
        if silent:
            raise TrainingError(
                f"{len(silent)} of {len(self.expected)} parameters that are to train got no gradient in the first step,"
                f" first {silent[0]}; the tuner trains something that the model's forward does not use"
            )
