"""The DeepSpeed engine of a stage: its configuration from the spec, and what the loop asks of it."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lensmith.errors import TrainingError
from lensmith.io import chatter
from lensmith.io.json import JsonError, read_object
from lensmith.spec.run import StageSpec
from lensmith.tensors import not_finite, told_names
from lensmith.training import distributed, memory
from lensmith.training.divergence import Diverged
from lensmith.training.feed import Split

if TYPE_CHECKING:
    from lensmith.model import MultimodalModel

_HIGHEST_RATE = 1e32
"""Adam divides by what is left of its betas, and torch raises where the quotient is no fp32 number."""


def precision_of(stage: StageSpec) -> torch.dtype:
    """The floating type of a stage; `auto` is bf16 where the hardware multiplies in it, else fp32."""
    if stage.precision == "auto":
        return torch.bfloat16 if _multiplies_bf16() else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[stage.precision]


def _multiplies_bf16() -> bool:
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def deepspeed_config(stage: StageSpec, split: Split) -> dict[str, Any]:
    """The engine's configuration: the user's JSON, then what the spec says (`lensmith check` refuses a contradiction).

    Raises:
        TrainingError: the JSON cannot be read.
    """
    config: dict[str, Any] = {}
    if stage.deepspeed.config is not None:
        try:
            config = _without_auto(read_object(stage.deepspeed.config))
        except JsonError as error:
            raise TrainingError(f"deepspeed.config: {error}") from error
    half = config.get("fp16", {}) if stage.precision == "fp16" else {}
    zero = config.get("zero_optimization", {}) | {"stage": stage.deepspeed.zero}
    for entry, device in (
        ("offload_optimizer", stage.deepspeed.offload_optimizer),
        ("offload_param", stage.deepspeed.offload_parameters),
    ):
        if device is not None:
            place = {"device": device, "pin_memory": torch.cuda.is_available()}
            disk = {"nvme_path": str(stage.deepspeed.nvme_path)} if device == "nvme" else {}
            zero[entry] = zero.get(entry, {}) | place | disk
    config |= {
        "train_batch_size": split.size,
        "train_micro_batch_size_per_gpu": split.micro,
        "gradient_accumulation_steps": split.accumulation,
        "gradient_clipping": stage.gradient_clipping,
        "zero_optimization": zero,
        "bf16": {"enabled": precision_of(stage) == torch.bfloat16},
        "fp16": half | {"enabled": precision_of(stage) == torch.float16},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": config.get("steps_per_print", 2**31),
    }
    return config


def _without_auto(config: Any) -> Any:
    """Without the entries that other trainers fill in."""
    if not isinstance(config, dict):
        return config
    return {key: _without_auto(value) for key, value in config.items() if value != "auto"}


@contextmanager
def _no_step_yet(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """DeepSpeed's optimiser for half precision without ZeRO steps once on zero gradients to make its state: the count
    of steps would be one ahead of ZeRO-1 to 3, and the weights already decayed. The state is made by the first step."""
    optimizer.step = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del optimizer.step


def quiet() -> None:
    """Before deepspeed is imported: the CPU where there is no GPU, and little of what it says."""
    chatter.hush()
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")


class Engine:
    """A model under DeepSpeed.

    Args:
        model: with `requires_grad` set by the tuner.
        optimizer: over exactly what trains.
        stage: the spec.
        split: batch sizes of this run.
    """

    def __init__(
        self, model: MultimodalModel, optimizer: torch.optim.Optimizer, stage: StageSpec, split: Split
    ) -> None:
        quiet()
        with chatter.off_stdout():
            import deepspeed

        self.model = model
        self.split = split
        self.zero = stage.deepspeed.zero
        self._norm: float | None = None
        self._deepspeed = deepspeed
        self._last: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        with chatter.off_stdout(), _no_step_yet(optimizer) if self.zero == 0 else nullcontext():
            self.engine, self.optimizer, _, _ = deepspeed.initialize(
                model=model,
                optimizer=optimizer,
                model_parameters=[p for p in model.parameters() if p.requires_grad],
                config=deepspeed_config(stage, split),
                dist_init_required=False,
            )

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return torch.device(self.engine.device)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward, under the engine's hooks."""
        self._last = args, kwargs
        return self.engine(*args, **kwargs)

    def unfit(self) -> str:
        """What this rank's share of weights and optimiser state holds that is not finite, or that the model gives no
        finite loss any more; empty where it may be saved. All ranks call it together."""
        named = {"the weights": self._weights(), "the optimiser's state": self._moments()}
        found = [f"{what} ({told_names(bad)})" for what, tensors in named.items() if (bad := not_finite(tensors))]
        if distributed.all_agree(" and ".join(found)):
            return " and ".join(found)
        loss = self._trial()
        return "" if math.isfinite(loss) else f"the loss of the last micro-batch ({loss})"

    def _weights(self) -> dict[str, Tensor]:
        """What trains; under ZeRO and in half precision this rank's share of the optimiser's own copy too."""
        own = self.model.named_parameters()
        named: dict[str, Tensor] = {name: p for name, p in own if p.requires_grad and p.numel()}
        known = {id(parameter) for parameter in named.values()}
        for group in self._inner().param_groups:
            for number, parameter in enumerate(group["params"]):
                if id(parameter) not in known:
                    named[f"{group['name']} {number}"] = parameter
        return named

    def _moments(self) -> dict[str, Tensor]:
        inner = self._inner()
        groups = {id(p): group["name"] for group in inner.param_groups for p in group["params"]}
        return {
            f"{key} of {groups.get(id(parameter), 'a group')} {number}": value
            for number, (parameter, values) in enumerate(inner.state.items())
            for key, value in values.items()
            if isinstance(value, Tensor)
        }

    def _inner(self) -> torch.optim.Optimizer:
        """The optimiser that DeepSpeed's wraps."""
        inner: torch.optim.Optimizer = getattr(self.engine.optimizer, "optimizer", self.engine.optimizer)
        return inner

    def _trial(self) -> float:
        """Loss of the last micro-batch in evaluation mode: it draws no random number and moves no statistics."""
        if self._last is None:
            return 0.0
        args, kwargs = self._last
        self.engine.eval()
        try:
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):
                return float(self.engine(*args, **kwargs))
        finally:
            self.engine.train()

    def backward(self, loss: Tensor, targets: float) -> None:
        """Back-propagate a summed loss so that, after all ranks and micro-steps, it is the mean over `targets`.

        The engine divides by the accumulation steps and averages over ranks; both are undone here.
        """
        self.engine.backward(loss * (self.split.accumulation * self.split.world / targets))

    def step(self) -> None:
        """End a micro-step; on the last of a step the optimiser moves."""
        if self.zero == 0 and self.engine.is_gradient_accumulation_boundary():
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            self._norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else None
        self.engine.step()

    def forget_gradients(self) -> None:
        """Drop what a step that did not end has accumulated."""
        for parameter in self.model.parameters():
            parameter.grad = None
        self._last = None  # what failed is not tried again
        memory.free()

    def set_rates(self, factor: float) -> dict[str, float]:
        """Set every group's learning rate to its peak times `factor`; returns them by name.

        Raises:
            Diverged: a rate that an optimiser in fp32 cannot compute with.
        """
        rates = {}
        for group in self.engine.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
            if group["lr"] > _HIGHEST_RATE:
                raise Diverged(f"a learning rate of {group['lr']:g} ({group['name']}) overflows fp32")
            rates[group["name"].removesuffix(" (no decay)")] = group["lr"]
        return rates

    def gradient_norm(self) -> float | None:
        """Norm of the last step's gradient before clipping; None where it overflowed or the engine did not say."""
        norm = self.engine.get_global_grad_norm()
        norm = self._norm if norm is None else float(norm)
        return norm if norm is not None and math.isfinite(norm) else None

    def messages(self) -> list[str]:
        """What a user should know of the last step: that fp16 overflowed, so that the optimiser did not move."""
        if self.engine.was_step_applied():
            return []
        return ["a gradient overflowed fp16: the optimiser took no step, and DeepSpeed lowers its loss scale"]

    def gather(self, parts: Collection[str]) -> dict[str, Tensor]:
        """Copies on the CPU of rank 0 of what trains and of whole parts; empty on other ranks.

        Args:
            parts: parts of which everything is needed, trained or not.

        Raises:
            TrainingError: a weight is empty, so that nothing half-gathered is ever written.
        """
        prefixes = tuple(f"{part}." for part in parts)
        state: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            if not (parameter.requires_grad or name.startswith(prefixes)):
                continue
            sharded = self._deepspeed.zero.GatheredParameters([parameter]) if self.zero == 3 else nullcontext()
            with sharded:
                if distributed.rank() == 0:
                    state[name] = parameter.detach().to("cpu", copy=True).contiguous()
        if empty := [name for name, tensor in state.items() if tensor.numel() == 0]:
            raise TrainingError(f"{len(empty)} weights could not be gathered, first {empty[0]}; nothing was written")
        return state
