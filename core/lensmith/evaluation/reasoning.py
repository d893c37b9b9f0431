"""Replies without what a model thought before it answered: judges and scorers read answers alone."""

from __future__ import annotations

import re

_NAMES = "think|thinking|thought|reasoning|reflection|analysis"
_OPEN = re.compile(rf"\s*(?:<({_NAMES})>|\[(THINK)\])", re.IGNORECASE)
_CLOSE = re.compile(rf"(?:</(?:{_NAMES})>|\[/THINK\])", re.IGNORECASE)
_CHANNEL = re.compile(r"<\|channel\|>\s*final\s*<\|message\|>")
_ANALYSIS = re.compile(r"\s*(?:<\|start\|>assistant)?<\|channel\|>\s*analysis")
_END = re.compile(r"<\|(?:end|return|im_end)\|>\s*$")


def without_reasoning(reply: str) -> str:
    """The reply behind its block of reasoning; as it is where it has none.

    A block is `<think> … </think>` or the like at the beginning (DeepSeek-R1, Qwen 3, Magistral's `[THINK]`), also
    where the chat template wrote its opening tag and only the closing one was generated, or the analysis channel of
    gpt-oss.
    A block that was cut off before its end leaves nothing.
    """
    if _ANALYSIS.match(reply):
        final = _CHANNEL.search(reply)
        return _END.sub("", reply[final.end() :]).strip() if final else ""
    closings = list(_CLOSE.finditer(reply))
    if _OPEN.match(reply):
        if not closings:
            return ""
        rest = reply[closings[0].end() :].lstrip()
        return without_reasoning(rest)
    if closings and not re.search(rf"<(?:{_NAMES})>|\[THINK\]", reply[: closings[0].start()], re.IGNORECASE):
        return reply[closings[0].end() :].lstrip()
    return reply
