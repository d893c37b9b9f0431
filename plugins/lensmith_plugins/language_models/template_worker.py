"""Renders chat templates of strangers in a process of its own, with bounded time and memory.

A template is a program: nested loops, `'a' * 10**10` and powers of powers end no sooner in a sandbox. Here the kernel
ends them. The environment is that of transformers (`apply_chat_template`), but for the day: it is the request's.

The file is run as a script and imports jinja2 alone. Each message is four bytes of length and JSON, on both pipes.
"""

from __future__ import annotations

import datetime
import json
import secrets
import signal
import sys
from typing import IO, Any

MEMORY = 1 << 29
"""Bytes of address space of the process."""
SECONDS = 1.0
"""Of processor time for one rendering, whatever else the machine does."""
LONGEST = 8_000_000
"""Characters of a rendered text."""
TODAY = "strftime_now"
"""The function by which a template writes the day."""


def main() -> None:
    """Answer requests until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the process that asks
    _limit_memory()
    templates: dict[str, _Template] = {}
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer
    while (request := receive(incoming)) is not None:
        _start_clock()
        try:
            answer = _answer(templates, request)
        except RecursionError:
            answer = {"error": "it is nested too deeply, or calls itself without end"}
        except MemoryError:
            answer = {"error": f"it takes more than {MEMORY >> 20} MB of memory", "excess": True}
        except Exception as error:
            answer = {"error": " ".join(f"{error or type(error).__name__}".split())}
        _stop_clock()
        send(outgoing, answer)


def receive(pipe: IO[bytes]) -> Any:
    """The next message, None at the end."""
    size = pipe.read(4)
    if len(size) < 4:
        return None
    text = pipe.read(int.from_bytes(size, "big"))
    return json.loads(text) if len(text) == int.from_bytes(size, "big") else None


def send(pipe: IO[bytes], message: Any) -> None:
    """Write a message."""
    text = json.dumps(message).encode()
    pipe.write(len(text).to_bytes(4, "big") + text)
    pipe.flush()


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):  # a system without such limits
        return


def _start_clock() -> None:
    # Nobody handles the signal, so that it ends the process even within one long operation.
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, SECONDS)


def _stop_clock() -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, 0)


class _Template:
    """A compiled template; the day and the marks change from rendering to rendering."""

    def __init__(self, text: str) -> None:
        import jinja2
        import jinja2.ext
        from jinja2.meta import find_undeclared_variables
        from jinja2.nodes import CallBlock, Name

        holder = self

        class Marks(jinja2.ext.Extension):
            """`{% generation %}`: what stands between is learnt."""

            tags = {"generation"}  # noqa: RUF012 - as the class that it derives from has it

            def parse(self, parser: Any) -> Any:
                line = next(parser.stream).lineno
                body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
                return CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

            def _mark(self, caller: Any) -> str:
                opening, closing = holder.marks
                return f"{opening}{caller()}{closing}"

        environment = _environment(Marks, holder)
        parsed = environment.parse(text)
        dated = any(node.name == TODAY for node in parsed.find_all(Name))
        self.reads = sorted(find_undeclared_variables(parsed) | ({TODAY} if dated else set()))
        self.has_marks = any(_calls_mark(node) for node in parsed.find_all(CallBlock))
        self.marks = ("", "")
        self.day = datetime.datetime(2024, 7, 26)
        self._template = environment.from_string(text)

    def render(self, request: Any) -> dict[str, Any]:
        self.marks = tuple(f"\ufdd0{secrets.token_hex(8)}\ufdd1" for _ in range(2))  # type: ignore[assignment]
        self.day = datetime.datetime.fromisoformat(request["date"])
        text = self._template.render(
            messages=request["messages"],
            tools=None,
            documents=None,
            add_generation_prompt=request["reply"],
            **request["variables"],
        )
        if len(text) > LONGEST:
            return {"error": f"it writes more than {LONGEST:,} characters", "excess": True}
        text, spans = self._spans(text)
        return {"text": text, "answers": spans if self.has_marks else None, "reads": self.reads}

    def _spans(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """The text without marks, and where they stood; marks may be moved but not nested."""
        opening, closing = self.marks
        written, spans, start = "", [], 0
        for piece in text.replace(closing, opening).split(opening):
            written += piece
            spans.append((start, len(written)))
            start = len(written)
        return written, spans[1::2]


def _environment(marks: Any, holder: _Template) -> Any:
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[marks, jinja2.ext.loopcontrols], cache_size=0
    )
    # So that no operation on constants is done while the template is compiled, outside what can be told.
    environment.optimized = False

    def refuse(message: Any) -> None:
        raise jinja2.exceptions.TemplateError(str(message))

    def to_json(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, **other: Any
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, **other)

    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals[TODAY] = lambda form: holder.day.strftime(form)
    environment.globals |= {"dict": _Dict(), "namespace": _namespace()}
    environment.globals.pop("lipsum", None)  # random
    return environment


class _Dict:
    """`dict` as a function: of the class itself a template could reach attributes."""

    def __call__(self, *arguments: Any, **named: Any) -> dict[Any, Any]:
        return dict(*arguments, **named)

    def fromkeys(self, *arguments: Any) -> dict[Any, Any]:
        return dict.fromkeys(*arguments)


def _namespace() -> Any:
    import jinja2

    class Namespace(jinja2.utils.Namespace):
        """Without names that begin with an underscore, by which a template could reach Python's internals."""

        def __init__(*arguments: Any, **named: Any) -> None:
            own, *given = arguments
            attributes = dict(*given, **named)
            for name in attributes:
                Namespace._refuse(name)
            jinja2.utils.Namespace.__init__(own, attributes)

        def __setitem__(self, name: Any, value: Any) -> None:
            Namespace._refuse(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

        @staticmethod
        def _refuse(name: Any) -> None:
            if isinstance(name, str) and name.startswith("_"):
                raise jinja2.exceptions.SecurityError(f"a namespace has no attribute {name!r}; use a name without _")

    return Namespace


def _calls_mark(node: Any) -> bool:
    method = getattr(node.call, "node", None)
    return getattr(method, "name", "") == "_mark"


def _answer(templates: dict[str, _Template], request: Any) -> dict[str, Any]:
    key = request["key"]
    if key not in templates:
        templates[key] = _Template(request["template"])
    return templates[key].render(request)


if __name__ == "__main__":
    main()
