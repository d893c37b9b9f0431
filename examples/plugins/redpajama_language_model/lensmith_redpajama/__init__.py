"""RedPajama-INCITE-Chat, run by Lensmith's own `hf_causal`, and its conversation. No torch here."""

import lensmith
from lensmith import Checkpoint, Component, Kind, Segment

api_version = 1


class RedPajamaSpec(lensmith.LanguageModelSpec):
    """A GPT-NeoX that RedPajama tuned on conversations."""

    checkpoint: Checkpoint
    """Folder or hub id of the weights and the tokenizer. There is no default."""

    @classmethod
    def tiny(cls, folder):
        from lensmith.testing import tiny_llama

        return cls(checkpoint=str(tiny_llama(folder)))

    def causal(self):
        """The same model as a spec of the part that runs any model of transformers."""
        return lensmith.discover().get(Kind.LANGUAGE_MODEL, "hf_causal").spec(checkpoint=self.checkpoint)

    def shape(self):
        return self.causal().shape()

    def default_conversation(self):
        return "redpajama"

    def sources(self):
        return {"checkpoint": self.checkpoint}

    def relocated(self, folder):
        return self.model_copy(update={"checkpoint": str(folder)})


class RedPajamaConversationSpec(lensmith.ConversationSpec):
    """`<human>: question`, a line break, `<bot>: answer` and the end token."""


class RedPajamaConversation(lensmith.Conversation):
    """The answers are learnt, each with the token that ends it."""

    def __init__(self, spec):
        self.spec = spec

    def render(self, turns, *, reply=False):
        if [turn.role for turn in turns] != [("user", "assistant")[number % 2] for number in range(len(turns))]:
            raise lensmith.ConversationError("messages alternate and the user begins")
        segments = []
        for turn in turns:
            learn = turn.role == "assistant"
            segments.append(Segment("\n<bot>:" if learn else "<human>:"))
            segments.append(Segment(" ", learn))
            segments += [Segment(kind="image") if part is None else Segment(part, learn) for part in turn.parts]
            segments += [Segment(supervised=True, kind="eos"), Segment("\n")] if learn else []
        return [*segments, Segment("\n<bot>:")] if reply else segments

    def stop_strings(self):
        return ("<human>:",)


@lensmith.hookimpl
def lensmith_components():
    model, template = "lensmith_redpajama.model:RedPajamaModel", "lensmith_redpajama:RedPajamaConversation"
    paper, chat = "RedPajama (Weber et al. 2024, arXiv 2411.12372)", "RedPajama-INCITE-Chat"
    example = "name: redpajama\ncheckpoint: togethercomputer/RedPajama-INCITE-7B-Chat\n"
    return [
        Component(Kind.LANGUAGE_MODEL, "redpajama", RedPajamaSpec, model, chat, paper=paper, example=example),
        Component(Kind.CONVERSATION, "redpajama", RedPajamaConversationSpec, template, f"as {chat}", paper=paper),
    ]
