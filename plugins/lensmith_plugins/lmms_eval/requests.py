"""What lmms-eval asks, in Lensmith's words. Neither torch nor lmms-eval here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lensmith import DataError, Turn
from lensmith.data.image_inputs import is_inline
from lensmith.serving.messages import joined

_LONGEST = 1024
"""Tokens of an answer where a task does not say."""


def generation_settings(given: Mapping[str, Any], *, obey_until: bool) -> dict[str, Any]:
    """Arguments of `GenerationOptions` from a task's `generation_kwargs`.

    Args:
        given: theirs; keys besides those of length, sampling, beams and stops are not looked at.
        obey_until: whether answers end at `until`, which lmms-eval sets to an empty line where a task has none.

    Raises:
        DataError: a value that makes no sense.
    """
    temperature = given.get("temperature")
    samples = given.get("do_sample", bool(temperature))
    until = given.get("until") or ()
    try:
        return {
            "max_new_tokens": int(given.get("max_new_tokens") or _LONGEST),
            "temperature": float(1.0 if temperature is None else temperature) if samples else 0.0,
            "top_p": float(given.get("top_p") or 1.0),
            "beams": int(given.get("num_beams") or 1),
            "stop": tuple([until] if isinstance(until, str) else until) if obey_until else (),
        }
    except (TypeError, ValueError) as error:
        raise DataError(f"generation_kwargs {dict(given)!r}: {error}") from error


def pictures(visuals: Any) -> tuple[Any, ...]:
    """What `doc_to_visual` gives: nothing, one picture or several, in any form that `lensmith.decode_image` takes.

    Raises:
        DataError: something else, such as a video.
    """
    if visuals is None:
        return ()
    if not isinstance(visuals, (list, tuple)):
        visuals = [visuals]
    found: list[Any] = []
    for visual in visuals:
        if isinstance(visual, (list, tuple)):
            found += pictures(visual)
        elif visual is None:
            continue
        elif isinstance(visual, str):
            found.append(visual if is_inline(visual) else Path(visual))
        elif isinstance(visual, (Path, Image.Image, bytes, bytearray)) or _is_array(visual) or _is_undecoded(visual):
            found.append(visual)
        else:
            raise DataError(f"the task shows {type(visual).__name__}; Lensmith's models see pictures alone")
    return tuple(found)


def conversation(
    messages: Sequence[Mapping[str, Any]],
) -> tuple[tuple[Any, ...], tuple[Turn, ...], str | None]:
    """What `doc_to_messages` gives, as pictures, turns and the system text (None where there is none).

    Raises:
        DataError: a role or a kind of content that cannot be expressed.
    """
    images: list[Any] = []
    turns: list[Turn] = []
    system: list[str] = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        pieces: list[str | None] = []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or ():
            if part.get("type") == "text":
                pieces.append(part["text"])
            elif part.get("type") == "image":
                shown = pictures(part.get("url"))
                images += shown
                pieces += [None] * len(shown)
            else:
                raise DataError(f"the task shows {part.get('type')!r}; Lensmith's models see pictures alone")
        parts = joined(pieces)
        if role == "system" and not turns:
            system.append("".join(part for part in parts if part is not None))
        elif role == "user" or role == "assistant":
            turns.append(Turn(role, parts))
        else:
            raise DataError(f"a message of {role!r} cannot stand here; Lensmith takes system first, user and assistant")
    return tuple(images), tuple(turns), "\n".join(system) if system else None


def _is_undecoded(visual: Any) -> bool:
    return isinstance(visual, Mapping) and bool({"bytes", "path"} & visual.keys())


def _is_array(visual: Any) -> bool:
    return hasattr(visual, "__array__") or callable(getattr(visual, "read", None))
