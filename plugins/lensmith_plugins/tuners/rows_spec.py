"""The field of every tuner that has the rows of added tokens train. No torch here."""

from __future__ import annotations

from lensmith import Parameters, ParameterShape, TunerSpec

NAME = "added_tokens"
ROWS = f"language_model.{NAME}."


class RowsSpec(TunerSpec):
    """A tuner that can train the rows of `add_tokens` beside whatever else it trains."""

    added_tokens: bool = False
    """Train the embeddings' rows of the tokens that `model.language_model.add_tokens` adds, and those of an output head
    of its own, whatever else of the language model is frozen. By default they stay what they are, the mean of all."""

    def rows(self, parts: dict[str, Parameters]) -> Parameters:
        """The trained rows, (R, D) of the embeddings and of an untied head; none unless `added_tokens`.

        Raises:
            ValueError: the language model's spec adds no tokens.
        """
        if not self.added_tokens:
            return ()
        tables = [tensor for tensor in parts.get("language_model", ()) if tensor.added and len(tensor.shape) == 2]
        if not tables:
            raise ValueError("added_tokens: the language model has no added tokens; name some in its `add_tokens`")
        return tuple(
            ParameterShape(f"{ROWS}{'head' if t.head else 'embeddings'}", (t.added, t.shape[1]), added=t.added)
            for t in sorted(tables, key=lambda tensor: tensor.head)
        )
