"""The arguments of a training script: a shell script that starts a trainer, or a file of arguments. Nothing is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from lensmith.errors import Problem, SpecError
from lensmith.spec.yaml import parse_scalar, read_document

_LAUNCHERS = {"deepspeed", "torchrun", "accelerate", "python", "python3", "srun", "swift", "llamafactory-cli"}
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)\Z", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::?-([^}]*))?\}|(\w+))")
_COUNTS = ("--num_gpus", "--nproc_per_node", "--nproc-per-node", "--num_processes", "--gpus")
_MOST = 1_000_000
"""Characters of a script."""


@dataclass(frozen=True)
class Arguments:
    """What a script asks of a trainer.

    Args:
        source: the file.
        values: by name, without dashes; numbers and truth values as such.
        gpus: that its launcher names, all machines together; None where it does not.
        trainer: the program that it starts, e.g. `llava/train/train_mem.py`.
        notes: what in the script could not be followed.
    """

    source: Path
    values: Mapping[str, Any]
    gpus: int | None = None
    trainer: str = ""
    notes: Sequence[str] = field(default_factory=list)


def read_arguments(path: Path) -> Arguments:
    """Read a script, or a file of arguments (`.json`, `.yaml`, `.toml`).

    Raises:
        SpecError: it cannot be read, or starts no trainer.
    """
    if path.suffix in (".json", ".yaml", ".yml", ".toml"):
        data = read_document(path).data
        if not isinstance(data, Mapping) or not data:
            raise SpecError([Problem("", f"{path} holds no arguments; it should be a mapping of names and values")])
        return Arguments(path, {str(key).lstrip("-").replace("-", "_"): value for key, value in data.items()})
    try:
        with path.open("rb") as file:
            text = file.read(_MOST + 1).decode("utf-8-sig") if path.is_file() else None
    except FileNotFoundError:
        raise SpecError([Problem("", f"{path} does not exist; give the path of a training script")]) from None
    except (OSError, ValueError) as error:
        raise SpecError([Problem("", f"{path} cannot be read: {error}")]) from error
    if text is None or len(text) > _MOST:
        raise SpecError([Problem("", f"{path} is no training script of at most {_MOST:,} characters")])
    return _script(path, text)


def _script(path: Path, text: str) -> Arguments:
    variables: dict[str, str] = {}
    found: list[tuple[list[str], list[str]]] = []
    for words in _commands(text):
        words = words[1:] if words[0] == "export" else words
        if len(words) == 1 and (assigned := _ASSIGNMENT.match(words[0])):
            variables[assigned[1]] = _filled(assigned[2], variables)
            continue
        words = [_filled(word, variables) for word in words]
        if arguments := _trained(words):
            found.append((words, arguments))
    if not found:
        text = "starts no trainer that is known here: no line has a launcher, a train*.py and `--NAME VALUE`"
        raise SpecError([Problem("", f"{path} {text}")])
    words, arguments = found[0]
    notes = [f"{len(found)} trainings are started; this is the first, {words[0]}"] if len(found) > 1 else []
    values = dict(_pairs(arguments))
    unknown = sorted({name for v in values.values() if isinstance(v, str) for name in _names(v)})
    notes += [f"${name} is not set in the script; its value is left as it stands" for name in unknown]
    trainer = next((word for word in words if _is_trainer(word)), words[0])
    return Arguments(path, values, _gpus(words, arguments), trainer, notes)


def _commands(text: str) -> Iterator[list[str]]:
    """Each command's words, lines that go on joined and comments left out."""
    for line in re.sub(r"\\[ \t]*\r?\n", " ", text).splitlines():
        for part in re.split(r"\s(?:&&|\|\||;)\s", line):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:
                words = part.split("#")[0].split()
            if words:
                yield words


def _is_trainer(word: str) -> bool:
    return bool(re.search(r"(^|[/.])(train|finetune|sft|pretrain)\w*(\.py)?\Z", word)) or word in ("sft", "pt")


def _trained(words: list[str]) -> list[str]:
    """The arguments behind the trainer of a command that starts one; empty for any other command."""
    launched = any(Path(word).name in _LAUNCHERS for word in words)
    for position, word in enumerate(words):
        if launched and _is_trainer(word) and any(w.startswith("--") for w in words[position + 1 :]):
            return words[position + 1 :]
    return []


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith("--"):
            continue
        name, sign, value = word.removeprefix("--").partition("=")
        values = [value] if sign else []
        while not sign and position < len(words) and not words[position].startswith("--"):
            values.append(words[position])
            position += 1
        yield name.replace("-", "_"), True if not values else _value(values[0]) if len(values) == 1 else values


def _value(text: str) -> Any:
    try:
        value = parse_scalar(text)
    except SpecError:
        return text
    return str(value) if isinstance(value, str) else text if isinstance(value, (list, dict)) else value


def _filled(text: str, variables: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name, default = match[1] or match[3], match[2]
        return variables.get(name, default if default is not None else match[0])

    return _VARIABLE.sub(value, text)


def _names(text: str) -> list[str]:
    return [match[1] or match[3] for match in _VARIABLE.finditer(text)]


def _gpus(words: Sequence[str], arguments: Sequence[str]) -> int | None:
    before = words[: len(words) - len(arguments)]
    flat = [piece for word in before for piece in (word.split("=", 1) if word.startswith("--") else [word])]
    counts = {name: value for name, value in pairwise(flat) if name.startswith("--")}
    for name in _COUNTS:
        if counts.get(name, "").isdecimal():
            nodes = counts.get("--nnodes", counts.get("--num_nodes", "1"))
            machines = int(nodes) if nodes.isdecimal() and name != "--num_processes" else 1
            return int(counts[name]) * machines or None
    if "--include" in counts:  # localhost:0,1,2,3
        return len(counts["--include"].rpartition(":")[2].split(","))
    return None
