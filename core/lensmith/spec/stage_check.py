"""Settings of a stage that exclude each other, or that need a package that is not here. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice

from lensmith.errors import Problem
from lensmith.io.json import JsonError, read_object
from lensmith.spec.deepspeed_json import json_problems
from lensmith.spec.network_loggers import wandb_obstacle
from lensmith.spec.run import DeepSpeedSpec, LoggingSpec, OptimizerSpec, StageSpec

_MOST = 50
"""Problems of one file that are told."""
_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


def stage_problems(path: str, stage: StageSpec) -> list[Problem]:
    """What is wrong with a stage's optimiser, schedule, precision and engine.

    Args:
        path: of the stage in the spec.
        stage: the stage.
    """
    problems = [
        *_optimizer(f"{path}.optimizer", stage.optimizer, stage.deepspeed),
        *_offload(f"{path}.deepspeed", stage.deepspeed),
        *_json(f"{path}.deepspeed.config", stage),
    ]
    if stage.precision == "fp16" and stage.deepspeed.zero == 0:
        # DeepSpeed 0.19.8 divides its gradients by a loss scale that it multiplied the loss with in ZeRO 1 to 3 alone.
        text = "DeepSpeed scales the loss in ZeRO-1, 2 and 3 alone; set deepspeed.zero: 1"
        problems.append(Problem(f"{path}.precision", text))
    if stage.compile and stage.deepspeed.zero == 3:
        text = "ZeRO-3 gathers weights while a block runs, which a compiled block cannot wait for; set it to false"
        problems.append(Problem(f"{path}.compile", text))
    warmup = stage.schedule.warmup_steps
    if warmup is not None and stage.max_steps is not None and warmup >= stage.max_steps:
        text = f"{warmup} warm-up steps leave none of max_steps {stage.max_steps} for the peak rate; lower it"
        problems.append(Problem(f"{path}.schedule.warmup_steps", text))
    return problems


def logging_problems(path: str, logging: LoggingSpec) -> list[Problem]:
    """Loggers whose package is not installed, or which would ask for a login."""
    return [
        Problem(f"{path}.loggers.{number}", obstacle)
        for number, logger in enumerate(logging.loggers)
        if (obstacle := _obstacle(logger))
    ]


def _obstacle(logger: str) -> str:
    if find_spec(_PACKAGES[logger]) is None:
        return missing(logger, _PACKAGES[logger])
    return wandb_obstacle() if logger == "wandb" else ""


def missing(what: str, extra: str) -> str:
    """What to install for an option.

    Args:
        what: the option.
        extra: of this distribution.
    """
    return f"{what} is not installed; install it with: pip install 'lensmith[{extra}]'"


def _optimizer(path: str, optimizer: OptimizerSpec, engine: DeepSpeedSpec) -> Iterator[Problem]:
    name = optimizer.name
    adam = "adam" in name
    foreign = {"betas": not adam, "eps": not adam, "momentum": name != "sgd"}
    for field, is_foreign in foreign.items():
        if is_foreign and getattr(optimizer, field) != OptimizerSpec.model_fields[field].default:
            yield Problem(f"{path}.{field}", f"{name} has no {field}; remove it")
    bits = name not in ("adamw", "sgd", "adafactor")
    if bits and find_spec("bitsandbytes") is None:
        yield Problem(f"{path}.name", f"{name} is bitsandbytes', and {missing('that', 'qlora')}")
    if bits and engine.offload_optimizer:
        text = f"{name} steps on the GPU, offload_optimizer on the CPU; take adamw, or do not offload"
        yield Problem(f"{path}.name", text)
    if name == "adafactor" and engine.zero:
        text = (
            f"adafactor factors matrices, and ZeRO-{engine.zero} hands the optimiser flat vectors;"
            " set deepspeed.zero: 0, or take another optimiser"
        )
        yield Problem(f"{path}.name", text)


def _offload(path: str, engine: DeepSpeedSpec) -> Iterator[Problem]:
    if engine.offload_parameters and engine.zero != 3:
        text = f"only ZeRO-3 shards parameters, this is ZeRO-{engine.zero}; set deepspeed.zero: 3"
        yield Problem(f"{path}.offload_parameters", text)
    if engine.offload_optimizer and engine.zero == 0:
        text = "only ZeRO-1, 2 and 3 offload the optimiser; set deepspeed.zero: 2"
        yield Problem(f"{path}.offload_optimizer", text)
    if engine.offload_optimizer == "nvme" and engine.zero in (1, 2):
        text = f"only ZeRO-3 offloads to a disk, this is ZeRO-{engine.zero}; take cpu, or set deepspeed.zero: 3"
        yield Problem(f"{path}.offload_optimizer", text)
    nvme = "nvme" in (engine.offload_optimizer, engine.offload_parameters)
    if nvme and engine.nvme_path is None:
        yield Problem(f"{path}.nvme_path", "is needed for offload to nvme; name a folder on that disk")
    if nvme and engine.nvme_path is not None and not os.path.isdir(engine.nvme_path):  # noqa: PTH112
        yield Problem(f"{path}.nvme_path", f"{engine.nvme_path} is not a folder")
    if not nvme and engine.nvme_path is not None:
        text = "nothing is offloaded to it; set offload_optimizer or offload_parameters to nvme, or remove it"
        yield Problem(f"{path}.nvme_path", text)


def _json(path: str, stage: StageSpec) -> Iterator[Problem]:
    """What a DeepSpeed JSON says that the spec says otherwise; the file itself is looked for elsewhere."""
    file = stage.deepspeed.config
    if file is None or not os.path.isfile(file):  # noqa: PTH113
        return
    try:
        config = read_object(file)
    except JsonError as error:
        yield Problem(path, f"is not a DeepSpeed JSON: {error}")
        return
    yield from islice(json_problems(path, file, config, stage), _MOST)
