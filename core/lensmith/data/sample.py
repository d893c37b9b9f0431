"""One row to one sample: its ids with every picture's positions laid out, its targets and its pixels.

Row → turns (`rows`) → segments (the conversation) → ids and supervised spans (`encode`) → sample (here) →
batch (`batch`). The language model never sees a placeholder: positions are exact before it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lensmith.data.encode import Encoded, encode
from lensmith.data.pictures import resolve_inside
from lensmith.data.row_images import is_inline, open_image
from lensmith.data.rows import Row, RowError
from lensmith.errors import DataError
from lensmith.interfaces.shapes import ConnectorShape, TileLayout, VisionShape
from lensmith.interfaces.text import IGNORE_LABEL, IMAGE_ID, Conversation, ConversationError, Segment, Tokenizer, Turn

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image
    from torch import Tensor

    from lensmith.features.lookup import KnownPictures
    from lensmith.interfaces.image_splitter import ImageSplitter
    from lensmith.interfaces.specs import ImageSplitterSpec
    from lensmith.interfaces.vision_encoder import Preprocessing
    from lensmith.spec.pictures import PicturePolicy


@dataclass
class Picture:
    """One prepared picture.

    Args:
        pixels: (V, 3, H, W); no view of them where it has features.
        layout: how its views are merged.
        instruction: the words that it is shown with.
        features: (V, N, W) from the feature cache.
        file: where it is from, so that a batch that shows it twice encodes it once; empty where that is not known.
    """

    pixels: Tensor
    layout: TileLayout
    instruction: str = ""
    features: Tensor | None = None
    file: str = ""


@dataclass
class Sample:
    """One conversation, ready for a batch.

    Args:
        id: the row's id.
        ids: token ids; positions of pictures hold the padding id.
        targets: for each position the id that it must predict, or -100.
        image_positions: the positions that picture features fill, in order.
        pictures: in the order of their positions.
    """

    id: str
    ids: list[int]
    targets: list[int]
    image_positions: list[int]
    pictures: list[Picture]


@dataclass
class PicturePipeline:
    """From a picture file to pixels, by the parts' own rules and without weights. Workers inherit it by fork.

    With `features` (see `lensmith.features`) the pictures that it knows come with theirs, and their files stay closed.
    """

    policy: PicturePolicy
    splitter: type[ImageSplitter]
    splitter_spec: ImageSplitterSpec
    preprocessing: Preprocessing
    encoder: VisionShape
    connector: ConnectorShape
    features: KnownPictures | None = None
    drawn: bool = False
    """Whether a picture comes out otherwise each time (augmentation)."""

    def open(self, root: Path, name: str, instruction: str = "") -> Picture:
        """Read and prepare one file below `root`."""
        if self.features is not None and (known := self.features.find(root, name)) is not None:
            features, size = known
            nothing = features.new_empty(0, self.encoder.channels, *self.encoder.image_size)
            return Picture(nothing, self.layout(*size), instruction, features)
        picture = self.prepare(open_image(root, name, self.policy), instruction)
        picture.file = "" if self.drawn or is_inline(name) else str(resolve_inside(root, name))
        return picture

    def layout(self, height: int, width: int) -> TileLayout:
        """How a picture of that size is cut and how many positions it takes."""
        return self.splitter_spec.layout((height, width), self.encoder, self.connector)

    def prepare(self, image: Image.Image, instruction: str = "") -> Picture:
        """Split and preprocess one decoded RGB picture, shown with the words of `instruction`."""
        import torch

        layout = self.layout(image.height, image.width)
        views = self.splitter.split(self.splitter_spec, image, layout, self.preprocessing.background)
        return Picture(torch.stack([self.preprocessing(view) for view in views]), layout, instruction)


def instructions(turns: Sequence[Turn]) -> list[str]:
    """For each picture of a conversation the words it is shown with, for connectors that read them.

    They are the words of the user's turn that shows it, as they are there, without placeholders and the space around
    them. A picture in an answer has the words of the question before.
    """
    found: list[str] = []
    words = ""
    for turn in turns:
        if turn.role == "user":
            words = " ".join(stripped for part in turn.parts if part and (stripped := part.strip()))
        found += [words] * turn.images
    return found


def encode_row(row: Row, conversation: Conversation, tokenizer: Tokenizer) -> Encoded:
    """Ids and supervised spans of a row, one placeholder a picture.

    Raises:
        RowError: the template cannot express the row, or it has nothing to learn.
    """
    try:
        encoded = encode(rendered(row, conversation), tokenizer)
    except ConversationError as error:
        raise RowError(str(error)) from error
    if not encoded.supervised:
        answers = any(turn.role == "assistant" and turn.text for turn in row.turns)
        why = "none of its answers is learnt (`loss: false`)" if answers and row.unlearnt else ""
        raise RowError(f"has nothing to learn: {why or 'no answer of the assistant with words in it'}")
    return encoded


def rendered(row: Row, conversation: Conversation) -> list[Segment]:
    """A row's segments: with its own system text, and without what it does not want learnt.

    Raises:
        ConversationError: the template cannot express the row.
    """
    if row.system is not None:
        try:
            conversation = conversation.with_system(row.system)
        except ConversationError:
            if row.system:  # there is no place for none either
                raise
    segments = conversation.render(row.turns)
    return _without(segments, row) if row.unlearnt else segments


def _without(segments: Sequence[Segment], row: Row) -> list[Segment]:
    """Segments in which the answers that a row does not want learnt are not.

    Raises:
        ConversationError: the template learns more, or in fewer pieces, than the answers.
    """
    answers = [n for n, turn in enumerate(row.turns) if turn.role == "assistant" and (turn.text or turn.images)]
    made: list[Segment] = []
    answer, inside = -1, False
    for segment in segments:
        answer += segment.supervised and not inside
        inside = segment.supervised
        leave = inside and answer < len(answers) and answers[answer] in row.unlearnt
        made.append(replace(segment, supervised=False) if leave else segment)
    if answer + 1 != len(answers):
        raise ConversationError(
            f"has answers with `loss: false`, and this conversation learns {answer + 1} pieces for {len(answers)}"
            " answers, so that they cannot be told apart; choose another conversation, or take these rows out"
        )
    return made


def truncate(encoded: Encoded, picture_tokens: Sequence[int], max_length: int) -> Encoded:
    """Cut a row at its end to `max_length` positions, pictures counted with theirs.

    Raises:
        RowError: the cut would fall into a picture, or leaves nothing to learn.
    """
    position = images = cut = 0
    for token in encoded.ids:
        size = picture_tokens[images] if token == IMAGE_ID else 1
        if position + size > max_length:
            break
        position += size
        cut += 1
        images += token == IMAGE_ID
    if cut == len(encoded.ids):
        return encoded
    if images < len(picture_tokens):
        raise RowError(f"takes more than max_length = {max_length} positions and the cut would fall into a picture")
    spans = [(start, min(end, cut)) for start, end in encoded.supervised if start < cut]
    if not spans:
        raise RowError(f"has nothing to learn within max_length = {max_length} positions")
    return Encoded(encoded.ids[:cut], spans, encoded.prompt)


def expand(identity: str, encoded: Encoded, pictures: Sequence[Picture], pad_id: int) -> Sample:
    """Lay out every position and shift the labels: position t predicts what stands at t + 1.

    Raises:
        DataError: the row shows another number of pictures than are given.
    """
    placeholders = sum(token == IMAGE_ID for token in encoded.ids)
    if placeholders != len(pictures):
        raise DataError(f"row {identity!r}: {placeholders} placeholders for {len(pictures)} pictures")
    supervised = [False] * len(encoded.ids)
    for start, end in encoded.supervised:
        supervised[start:end] = [True] * (end - start)
    ids: list[int] = []
    labels: list[int] = []
    image_positions: list[int] = []
    remaining = iter(pictures)
    for token, learn in zip(encoded.ids, supervised, strict=True):
        if token == IMAGE_ID:
            count = next(remaining).layout.tokens
            image_positions.extend(range(len(ids), len(ids) + count))
            ids.extend([pad_id] * count)
            labels.extend([IGNORE_LABEL] * count)
        else:
            ids.append(token)
            labels.append(token if learn else IGNORE_LABEL)
    targets = [*labels[1:], IGNORE_LABEL]
    return Sample(identity, ids, targets, image_positions, list(pictures))
