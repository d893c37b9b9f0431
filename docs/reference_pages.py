"""Write docs/reference/ from the docstrings of the public interface.

python docs/reference_pages.py            write the pages
python docs/reference_pages.py --check    write nothing; exit 1 where a page is out of date
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import griffe

sys.path.insert(0, str(Path(__file__).resolve().parent))
from interface import PACKAGES, ROOT, exported, members, package, signature

FOLDER = ROOT / "docs" / "reference"
TITLES = {
    "functions": ("Functions", "What `import lensmith` offers to call."),
    "vision_encoder": ("Vision encoder", "Pixels of views in, a grid of features out."),
    "image_splitter": ("Image splitter", "One picture to views, and the views' features to one sequence."),
    "connector": ("Connector", "Vision features to language-model embeddings."),
    "language_model": ("Language model", "A causal language model behind input embeddings."),
    "tuner": ("Tuner", "How weights are loaded, what trains, and how the result is saved."),
    "conversation": ("Conversation", "Turns in, segments out, each supervised or not."),
    "benchmark": ("Benchmark", "Questions, and what answers are worth."),
    "formats": ("Importers and exporters", "Other projects' checkpoints in, and out."),
    "registry": ("Registry", "What a plugin registers, and what is found of it."),
    "spec": ("Spec file", "The sections of a spec file. The fields of parts are in [docs/parts](../parts/)."),
    "errors": ("Errors", "What is raised where a user, a file or a plugin is at fault."),
    "values": ("Values", "What interfaces hand to each other, and the types of their fields."),
}
PAGES = {
    "vision_encoder": ("VisionEncoder", "VisionEncoderSpec", "VisionShape", "Preprocessing"),
    "image_splitter": ("ImageSplitter", "ImageSplitterSpec", "TileLayout"),
    "connector": ("Connector", "ConnectorSpec", "ConnectorShape"),
    "language_model": ("LanguageModel", "LanguageModelSpec", "LanguageShape", "GenerationOptions", "Tokenizer"),
    "tuner": ("Tuner", "TunerSpec", "ParameterGroup", "Loading"),
    "conversation": ("Conversation", "ConversationSpec", "Turn", "Segment", "Pieces", "ChatText"),
}
"""What stands first on the page of an interface; the rest goes by where it is defined."""
VALUES = {
    "benchmark": (
        "interfaces.benchmark",
        ("Item", "Prediction", "Predictions", "SampleScore", "Quantity", "Scores", "JudgeRequest", "Judge"),
    ),
    "formats": ("conversion", ("foreign.Foreign", "held.Held", "stored.Stored", "probes.Probe")),
}
"""What interfaces take and hand out that is not among the exported names: page, module of `lensmith`, names."""
LETTERS = (
    "B rows, V views, N vision tokens a view, W vision width, M tokens out of the connector, T text positions, D width."
)


def pages() -> dict[str, str]:
    """The text of every page by file name."""
    placed: dict[str, list[tuple[str, griffe.Object]]] = {page: [] for page in TITLES}
    home: dict[str, str] = {}
    everything = {**exported(PACKAGES[1]), **exported(PACKAGES[0])}
    order = [name for names in PAGES.values() for name in names]
    for name in sorted(everything, key=lambda each: (order.index(each) if each in order else len(order), each)):
        page = _page_of(name, everything[name])
        placed[page].append((name, everything[name]))
        home[name] = page
    for name, item in package("lensmith")["spec.run"].members.items():
        if isinstance(item, griffe.Class) and not name.startswith("_") and name not in everything:
            placed["spec"].append((name, item))
    for page, (module, names) in VALUES.items():
        placed[page] += [(_label(name, everything), _inside(module, name)) for name in names]
    hooks = package("lensmith_registry")["hooks"].members.items()
    placed["registry"] += [(n, i) for n, i in hooks if n.startswith("lensmith_") and isinstance(i, griffe.Function)]
    found = {f"{page}.md": _page(page, items) for page, items in placed.items() if items}
    rows = [f"| [{TITLES[page][0]}]({page}.md) | {_names(page, items)} |" for page, items in placed.items() if items]
    head = ["# Interface reference", "", _WRITTEN, "", f"Shape letters: {LETTERS}", "", "| page | names |", "|---|---|"]
    return {"README.md": "\n".join([*head, *rows]) + "\n", **found}


def _label(name: str, exported_names: Mapping[str, object]) -> str:
    """Its own name; with its module's where another thing is exported under that name."""
    short = name.rpartition(".")[2]
    return name if short in exported_names else short


def _inside(module: str, name: str) -> griffe.Object:
    item = package("lensmith")[f"{module}.{name}"]
    assert isinstance(item, griffe.Object)
    return item


_WRITTEN = "Written by `python docs/reference_pages.py` from the docstrings; do not edit."


def _page_of(name: str, item: griffe.Object) -> str:
    for page, names in PAGES.items():
        if name in names:
            return page
    if isinstance(item, griffe.Function):
        return "functions"
    if isinstance(item, griffe.Class) and name.endswith(("Error", "Parts")) and "shapes" not in item.path:
        return "errors"
    module = item.path.split(".")
    if module[0] == "lensmith_registry":
        return "registry"
    if "spec" in module[:2]:
        return "spec"
    return module[2] if len(module) > 2 and module[1] == "interfaces" and module[2] in TITLES else "values"


def _names(page: str, items: list[tuple[str, griffe.Object]]) -> str:
    return " ".join(f"[`{name}`]({page}.md#{name.lower()})" for name, _ in items)


def _page(page: str, items: list[tuple[str, griffe.Object]]) -> str:
    title, introduction = TITLES[page]
    lines = [f"# {title}", "", introduction, "", _WRITTEN, ""]
    for name, item in items:
        lines += _item(name, item)
    return "\n".join(lines).rstrip() + "\n"


def _item(name: str, item: griffe.Object) -> Iterator[str]:
    yield from (f"## {name}", "")
    if item.path.startswith("lensmith_registry.") and name not in exported(PACKAGES[0]) and name[:9] != "lensmith_":
        yield from ("From `lensmith_registry`.", "")
    if isinstance(item, griffe.Class):
        if item.bases:
            yield from (f"Of {', '.join(f'`{base}`' for base in item.bases)}.", "")
        yield from _text(item)
        inner = [(n, m) for n, m in members(item) if n != "__init__"]
        fields = [(n, m) for n, m in inner if isinstance(m, griffe.Attribute) and "property" not in m.labels]
        if fields:
            yield from ("| field | type and default | meaning |", "|---|---|---|")
            for field, attribute in fields:
                text = " ".join(attribute.docstring.value.split()) if attribute.docstring else ""
                yield f"| {_cell(field)} | {_cell(signature(attribute))} | {text.replace('|', chr(92) + '|')} |"
            yield ""
        for method, function in inner:
            if (method, function) not in fields:
                yield from (f"### {name}.{method}", "", "```python", _declaration(method, function), "```", "")
                yield from _text(function)
    else:
        yield from ("```python", _declaration(name, item), "```", "")
        yield from _text(item)


def _cell(code: str) -> str:
    return f"`{code}`".replace("|", "\\|") if code else ""


def _declaration(name: str, item: griffe.Object) -> str:
    said = signature(item)
    said = said if '"' in said else said.replace("'", '"')  # as ruff writes it, which formats Markdown too
    if not isinstance(item, griffe.Function):
        kind, _, rest = said.partition("property ")
        return f"{name}: {rest}  # property" if not kind and rest else f"{name} {said}"
    marks, _, parameters = said.partition("(")
    decorators = "".join(f"@{mark}\n" for mark in marks.split())
    line = f"{decorators}def {name}({parameters}"
    if max(map(len, line.splitlines())) <= 100:
        return line
    inside, closing, returns = parameters.rpartition(")")
    split = _split(inside)
    return f"{decorators}def {name}(\n" + "".join(f"    {part},\n" for part in split) + f"{closing}{returns}"


def _split(parameters: str) -> list[str]:
    """Parameters one by one; commas inside brackets belong to a type."""
    found, depth, start = [], 0, 0
    for place, letter in enumerate(parameters):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            found.append(parameters[start:place].strip())
            start = place + 1
    return [*found, parameters[start:].strip()]


def _text(item: griffe.Object) -> Iterator[str]:
    if item.docstring is None:
        return
    logging.getLogger("griffe").setLevel(logging.CRITICAL)
    for section in item.docstring.parse("google", warnings=False, returns_named_value=False, warn_unknown_params=False):
        if section.kind is griffe.DocstringSectionKind.text:
            yield from (section.value, "")
        elif section.kind is griffe.DocstringSectionKind.parameters:
            yield from ("Takes", "")
            yield from (f"- `{each.name}`: {_flat(each.description)}" for each in section.value)
            yield ""
        elif section.kind is griffe.DocstringSectionKind.raises:
            yield from ("Raises", "")
            yield from (f"- `{each.annotation}`: {_flat(each.description)}" for each in section.value)
            yield ""
        elif section.kind is griffe.DocstringSectionKind.returns:
            yield from ("Returns", "", *(f"- {_flat(each.description)}" for each in section.value), "")
        else:  # e.g. a shell example: as it stands
            yield from (_flat(str(section.title or section.kind.value)), "")


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def main() -> int:
    """Write what is out of date, or say so."""
    check = "--check" in sys.argv[1:]
    wanted = pages()
    FOLDER.mkdir(exist_ok=True)
    there = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.md")}
    stale = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
    if check:
        print(f"out of date: {', '.join(stale)}; run `python docs/reference_pages.py`" if stale else "up to date")
        return 1 if stale else 0
    for name in stale:
        if name in wanted:
            (FOLDER / name).write_text(wanted[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()
    print(f"{len(stale)} pages written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
