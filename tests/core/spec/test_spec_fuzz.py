"""Whatever is in a file, only `SpecError` comes out, with a message that can be printed."""

from __future__ import annotations

import copy
import datetime
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lensmith import SpecError, load_spec
from lensmith.spec import dump
from lensmith.spec.yaml import parse_yaml, read_document

SCRAPS = [
    *"ab:-?{}[],&*!|>'\"%@`#~<= \n\t0189.eEx_+\\/u",
    *(
        "\n  ",
        "\n- ",
        ": ",
        "? ",
        "!!int ",
        "!!map ",
        "!!python/name:os ",
        "!<x>",
        "&a ",
        "*a ",
        "<<: ",
        "---\n",
        "...\n",
    ),
    *(
        "%YAML 1.1\n",
        "%TAG ! x\n",
        "|2-\n",
        ">+\n",
        "\\ud800",
        "\\UFFFFFFFF",
        "\\x",
        "0x",
        "0o9",
        ".inf",
        ".nan",
        "1e999",
    ),
    *("é", "😀", "\u2028", "\x85", "\ufeff", "\x00", "\x1b", "\ud800", "9" * 700),
    *("model", "stages", "connector", "name: mlp", "extends: ", "sources: ", "null"),
]
ODD: list[Any] = [
    *(
        None,
        [],
        {},
        "",
        "\0",
        "~",
        "%",
        "{0}",
        "mlp",
        "lora",
        "x" * 300,
        True,
        -1,
        1.5,
        10**400,
        float("inf"),
        float("nan"),
    ),
    *([[[]]], [1], {"name": None}, {"name": []}, {"name": "mlp"}, {"name": "mlp", "mlp": {}}, {"a": {"b": 1}}, {"": 1}),
    *({1: 2}, {"[key]": 1}, b"x", Path("x"), object(), datetime.date(2020, 1, 1)),
]
OVERRIDES = [
    *(
        "model.connector.depth=3",
        "model.connector=linear",
        "model.connector.name=identity",
        "model.connector={depth: 4}",
    ),
    *(
        "stages.tune.data.sources.0.weight=2",
        "stages.tune.data.sources.path=x",
        "stages.tune.data.sources.9=x",
        "a.b.c=1",
    ),
    *(
        "stages.align.tuner.name=lora",
        "stages.align.optimizer.betas.0=0.5",
        "model=x",
        "stages=[]",
        "stages.0=1",
        "x",
        "=[",
    ),
]


def printable(error: SpecError) -> None:
    assert error.problems
    assert str(error).encode("utf-8")


@pytest.mark.parametrize("seed", range(8))
def test_random_text(seed: int) -> None:
    rng = random.Random(seed)
    outcomes = []
    for _ in range(500):
        text = "".join(rng.choice(SCRAPS) for _ in range(rng.randint(1, 40)))
        try:
            parse_yaml(text, source="s.yaml", base=Path("/"))
            outcomes.append("read")
        except SpecError as error:
            printable(error)
            outcomes.append("refused")
    assert set(outcomes) == {"read", "refused"}


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files(seed: int, base: Path) -> None:
    rng = random.Random(seed)
    text = base.read_text()
    for _ in range(60):
        damaged = text
        for _ in range(rng.randint(1, 3)):
            start = rng.randrange(len(damaged))
            damaged = damaged[:start] + rng.choice([*SCRAPS, ""]) + damaged[start + rng.randint(0, 4) :]
        file = base.with_name("damaged.yaml")
        file.write_bytes(damaged.encode("utf-8", errors="surrogatepass"))
        try:
            load_spec(file)
        except SpecError as error:
            printable(error)


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_random_json_and_toml(suffix: str, tmp_path: Path) -> None:
    if suffix == "toml":
        pytest.importorskip("tomllib")
    rng = random.Random(suffix)
    file = tmp_path / f"run.{suffix}"
    for _ in range(300):
        text = '{"a": ' * (suffix == "json") + "".join(rng.choice(SCRAPS) for _ in range(rng.randint(1, 20)))
        file.write_bytes(text.encode("utf-8", errors="surrogatepass"))
        try:
            read_document(file)
        except SpecError as error:
            printable(error)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, (dict, list)):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(below, (*path, key))


def mutated(data: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    *above, last = rng.choice([path for path in places(data) if path])
    here: Any = data
    for key in above:
        here = here[key]
    choice = rng.random()
    if choice < 0.6:
        here[last] = copy.deepcopy(rng.choice(ODD))
    elif choice < 0.75 or isinstance(here, list):
        del here[last]
    else:
        here[rng.choice(["name", "extends", "x", "", "connector", "sources", f"{last}x"])] = copy.deepcopy(
            rng.choice(ODD[:20])
        )
    return data


@pytest.mark.parametrize("seed", range(4))
def test_mutated_specs_are_refused_or_round_trip(seed: int, base: Path) -> None:
    rng = random.Random(seed)
    whole = dump(load_spec(base)) | {"output": "x", "start_from": "y"}
    read = 0
    for _ in range(400):
        data = copy.deepcopy(whole)
        for _ in range(rng.randint(1, 3)):
            data = mutated(data, rng)
        try:
            spec = load_spec(data, rng.sample(OVERRIDES, rng.choice([0, 0, 1, 2])))
        except SpecError as error:
            printable(error)
            continue
        assert load_spec(dump(spec)) == spec
        read += 1
    assert read > 5
