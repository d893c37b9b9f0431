"""Sentences that say what an answer should look like, as LLaVA-1.5 writes them."""

from __future__ import annotations

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
LETTER_CN = "请直接回答选项字母。"
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."


def ask(question: str, *sentences: str) -> str:
    """A question with sentences on lines of their own."""
    return "\n".join([question, *(sentence for sentence in sentences if sentence)])


def without(prompt: str, *sentences: str) -> str:
    """The question of a prompt that `ask` wrote."""
    for sentence in reversed(sentences):
        prompt = prompt.removesuffix("\n" + sentence)
    return prompt.removeprefix("<image>\n")
