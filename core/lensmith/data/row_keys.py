"""Keys of rows and turns beyond those that are read: what looks like data is refused by name, what describes passes.

A row is never trained without something that it holds: an image under another name, a video, tools, weights. Keys that
only describe a row (`source`, `model`, `width`) are passed over, and so is what the source's `ignore` names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

READ = frozenset({"id", "image", "images", "conversations", "messages", "system"})
"""Keys of rows that are used."""
LEARNT = frozenset({"loss", "train", "learn", "trainable", "supervised", "weight", "lossweight"})
"""Keys of turns, without marks between their words, that say whether an answer is learnt."""

_OF = r"(?:\d+|paths?|files?|filenames?|names?|urls?|uris?|links?|bytes|b64|base64|data|list)?"
_IMAGE = re.compile(rf"(?:input|query)?(?:images?|imgs?|pictures?|pics?|photos?|jpe?gs?|pngs?|pixelvalues){_OF}")
_DESCRIBES = re.compile(r"images?(?:path|file|filename|name|url|uri|link)s?")
_OTHER_MEDIA = re.compile(rf"(?:input)?(?:videos?|vids?|frames|audios?|speech|sounds?|wavs?|mp3s?|mp4s?){_OF}")
_KINDS = {
    "system": {"systemprompt", "systemmessage", "sysprompt", "systemtext", "systeminstruction", "systemprompts"},
    "tools": {"tools", "tool", "functions", "function", "toolcalls", "toolcall", "functioncall", "apis"},
    "reasoning": {"reasoning", "reasoningcontent", "thinking", "thoughts"},
    "preference": {"chosen", "rejected", "chosenresponse", "rejectedresponse", "chosenmessages", "rejectedmessages"}
    | {"rejectedimages", "chosenimages", "preferred"},
    "documents": {"documents", "document", "docs", "passages", "history"},
    "ids": {"inputids", "tokenids", "labels", "lossmask", "attentionmask", "assistantmask"},
}
_TELLS = {
    "image": "holds an image under a name that is not read; call it `image` (or `images`, a list)",
    "media": "holds what is not an image, and only images are read; take these rows out",
    "system": "holds a system text; call it `system`",
    "tools": "holds tools, which no conversation here writes; write them into the turns",
    "reasoning": "holds reasoning beside the answer; write it into the answer, or take it out",
    "preference": "holds answers that are compared, which no stage here learns from; write one as the answer",
    "documents": "holds text that no conversation here writes; write it into the turns",
    "ids": "holds what a tokenizer made; only text is read here",
    "learnt": "says what is learnt, which only the key of a turn says: true, false, 1 or 0; put it there",
    "weight": "weighs the row, which only a source does: put such rows into a file of their own with `weight`",
    "label": "says whether the answer is wanted, which no stage here learns from; leave out those that are not",
}
_FILE = re.compile(r"(?:[^\s].{0,400})?\.(?:jpe?g|png|gif|webp|bmp|tiff?)", re.IGNORECASE)
_SHOWN = 40


def plain_key(key: str) -> str:
    """A key without case and marks between its words: `Image-Path` and `image_path` are one."""
    return re.sub(r"[^a-z0-9]", "", key.lower())


def unused_data(raw: Mapping[str, Any], images: Collection[str], ignored: Collection[str]) -> str:
    """What a row holds that would be passed over, and the cure; empty where there is nothing.

    Args:
        raw: the row.
        images: those that are read from it.
        ignored: keys that the source says to pass over.
    """
    for key, value in raw.items():
        if key in READ or key in ignored or is_empty(value):
            continue
        if told := _unused(key, value, images):
            return f"`{short(key)}` {told}, or name the key in the source's `ignore`"
    return ""


def unused_in_turn(turn: Mapping[str, Any], read: Collection[str], ignored: Collection[str]) -> str:
    """The same of a turn, without its keys that are read."""
    for key, value in turn.items():
        if key in read or key in ignored or is_empty(value) or plain_key(key) in LEARNT:
            continue
        if told := _unused(key, value, ()):
            return f"`{short(key)}` {told}, or name the key in the source's `ignore`"
    return ""


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: null, no text, an empty list or object; tables have such cells."""
    return value is None or (isinstance(value, (str, list, dict)) and not value)


def short(text: object) -> str:
    """Some of what may be long, in one line."""
    shown = str(text)
    shown = shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "\u2026"
    return shown if shown.isprintable() else ascii(shown)[1:-1]


@lru_cache(maxsize=4096)
def _kind(key: str) -> str:
    plain = plain_key(key)
    if _IMAGE.fullmatch(plain):
        return "image"
    if _OTHER_MEDIA.fullmatch(plain):
        return "media"
    if plain in LEARNT:
        return "weight" if "weight" in plain else "learnt"
    if plain in ("weights", "sampleweight"):
        return "weight"
    if plain == "label":
        return "label"
    for kind, names in _KINDS.items():
        if plain in names:
            return kind
    if plain.startswith(("image", "system")):  # `image_id`, `image_width`: of the image
        return ""
    close = difflib.get_close_matches(plain, ("image", "images", "system"), n=1, cutoff=0.8)
    return ("system" if close[0] == "system" else "image") if close else ""


def _unused(key: str, value: Any, images: Collection[str]) -> str:
    kind = _kind(key)
    if kind in ("learnt", "weight") and value in (True, 1):
        return ""
    if kind == "label" and not isinstance(value, bool):
        kind = ""  # a class of things, as many tables have
    if kind == "image":
        if images and (_DESCRIBES.fullmatch(plain_key(key)) or value in images):
            return ""  # where the same image is from
        return _TELLS["image"]
    if kind:
        return _TELLS[kind]
    if not images and _is_image(value):
        return f"holds what looks like an image ({short(_first(value))}); call it `image` (or `images`, a list)"
    return ""


def _is_image(value: Any) -> bool:
    first = _first(value)
    if isinstance(first, dict):
        return "bytes" in first and "path" in first
    return isinstance(first, str) and (first[:11].lower() == "data:image/" or _FILE.fullmatch(first) is not None)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value
