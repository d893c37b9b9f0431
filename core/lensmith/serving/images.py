"""Pictures of requests: bytes from data URLs or the network, checked before they are decoded. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from lensmith.data.bounded import BoundedDecoder, TooManyPixels
from lensmith.data.inline_images import body_of, from_base64, is_data_uri, like_base64
from lensmith.data.pixels import PictureError
from lensmith.serving.failures import RequestError
from lensmith.serving.limits import MIB, Limits
from lensmith.serving.messages import Shown
from lensmith.serving.remote import deadline, fetch
from lensmith.spec.pictures import PicturePolicy


def picture_bytes(pictures: Sequence[Shown], limits: Limits) -> list[bytes]:
    """The files of pictures.

    Raises:
        RequestError: too many, too large, not base64, or an address where none is allowed.
    """
    if len(pictures) > limits.pictures:
        raise RequestError(f"{len(pictures)} pictures where {limits.pictures} are allowed", param="messages")
    until = deadline()
    return [_bytes(picture, limits, until) for picture in pictures]


def open_pictures(
    files: Sequence[bytes],
    pictures: Sequence[Shown],
    policy: PicturePolicy,
    limits: Limits,
    decoder: BoundedDecoder,
    wanted: Callable[[], bool],
) -> list[Image.Image]:
    """Decode pictures once the headers of all have been found small enough.

    Args:
        files, pictures: what is shown.
        policy: see `to_rgb`.
        limits: of pixels.
        decoder: a process of its own.
        wanted: false ends the work, with `Abandoned`.

    Raises:
        RequestError: no picture, a damaged one, one outside the policy or that takes too long, or too many pixels.
    """
    places = [shown.place for shown in pictures]
    try:
        return decoder.decode(files, places, policy, limits.pixels, wanted)
    except TooManyPixels as error:
        raise RequestError(
            f"the pictures have {error.pixels:,} pixels together, up to {places[error.at]}, where {limits.pixels:,} are"
            " allowed; scale them down",
            param=places[error.at],
            code="image_too_large",
        ) from error
    except PictureError as error:
        place = places[getattr(error, "at", 0)]
        text = f"{place} {str(error).removeprefix(f'{place}: ')}"
        raise RequestError(text, param=place, code="invalid_image") from error


def _bytes(shown: Shown, limits: Limits, until: float) -> bytes:
    inline = is_data_uri(shown.url)
    if not inline and not like_base64(shown.url):
        if not limits.remote:
            raise RequestError(
                f"{shown.place} is not a data URL; send the picture itself as data:image/png;base64,… (this server"
                " fetches nothing: --allow-remote-images)",
                param=shown.place,
                code="remote_image",
            )
        return fetch(shown.url, shown.place, limits.picture, until)
    try:
        start = body_of(shown.url) if inline else 0
    except ValueError:
        text = f"{shown.place} is not base64; write data:image/png;base64,… and the file's base64"
        raise RequestError(text, param=shown.place, code="invalid_image") from None
    try:
        data = from_base64(shown.url[start:])
    except ValueError as error:
        text = f"{shown.place} is damaged base64 ({error})"
        raise RequestError(text, param=shown.place, code="invalid_image") from error
    if len(data) > limits.picture:
        raise too_large(shown.place, limits.picture)
    return data


def too_large(place: str, limit: int) -> RequestError:
    """Of a picture's file."""
    text = f"{place} is more than {limit / MIB:g} MiB; scale it down or compress it"
    return RequestError(text, status=413, param=place, code="image_too_large")
