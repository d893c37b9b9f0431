"""Whether the model hub can be asked: found out once, so that no library asks it again and again in vain."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lensmith.errors import LensmithError

_SECONDS = 5.0
"""For the hub to answer, before it counts as out of reach."""
_FORGOTTEN_AFTER = 120.0
"""Seconds after which a process that found no network asks once more."""
_OFFLINE = "HF_HUB_OFFLINE"


class HubError(LensmithError, FileNotFoundError):
    """A repository of the hub that is neither cached here nor to be had."""


class _State:
    """What this process knows of the hub."""

    reachable = False
    refused: float | None = None
    reason = ""


def unreachable() -> str:
    """Why the hub cannot be asked; empty where it answers.

    A hub that cannot be reached is taken for offline mode (`HF_HUB_OFFLINE`) from then on, by every library here and
    by child processes: each would try it again for half a minute.
    """
    from huggingface_hub import constants

    if _State.refused is not None:
        if time.monotonic() - _State.refused < _FORGOTTEN_AFTER:
            return _State.reason
        _State.refused = None
        constants.HF_HUB_OFFLINE = False
        os.environ.pop(_OFFLINE, None)
    if constants.HF_HUB_OFFLINE:
        return f"{_OFFLINE} is set"
    if _State.reachable:
        return ""
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception as error:  # of whichever HTTP library this version of the hub's client uses
        said = " ".join(str(error).split())
        _State.reason = f"no answer from {constants.ENDPOINT}: {said[:120] or type(error).__name__}"
        _State.refused = time.monotonic()
        constants.HF_HUB_OFFLINE = True
        os.environ[_OFFLINE] = "1"
        return _State.reason
    _State.reachable = True
    return ""


def cached(repository: str) -> bool:
    """Whether anything of a repository is in the hub's cache on this machine."""
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots"
    return any(any(folder.iterdir()) for folder in snapshots.glob("*") if folder.is_dir())


def require(repository: str, what: str = "") -> None:
    """See that a repository can be had, before a library looks for it.

    Args:
        repository: `owner/name`.
        what: is needed of it, for the message, e.g. `config.json`; empty for all of it.

    Raises:
        HubError: it is not cached, and the hub cannot be asked; in one line, with what to do.
    """
    reason = unreachable()
    if reason and not cached(repository):
        raise absent(repository, what, reason)


def absent(repository: str, what: str, reason: str) -> HubError:
    """The error for what is neither cached nor to be had."""
    named = f"{repository!r} ({what})" if what else f"{repository!r}"
    return HubError(
        f"{named} is no folder here, is not in the hub's cache, and cannot be had from the model hub ({reason}); give a"
        f" folder that holds it, or run `hf download {repository}` where there is a network and copy its cache here"
        " (HF_HOME)"
    )
