"""What loggers that use a network need of this machine. No torch, and no network."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

_OFFLINE = ("offline", "disabled", "dryrun")
_SERVER = "https://api.wandb.ai"


def wandb_server() -> tuple[str, int]:
    """Host and port of Weights & Biases, a server of one's own included (WANDB_BASE_URL)."""
    address = urlsplit(os.environ.get("WANDB_BASE_URL") or _SERVER)
    try:
        port = address.port
    except ValueError:
        port = None
    return address.hostname or "api.wandb.ai", port or (80 if address.scheme == "http" else 443)


def wandb_obstacle() -> str:
    """Why Weights & Biases would ask for a login in the middle of a run; empty where it would not."""
    if os.environ.get("WANDB_MODE") in _OFFLINE or os.environ.get("WANDB_API_KEY"):
        return ""
    if os.environ.get("WANDB_ANONYMOUS") in ("allow", "must") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return ""
    if _stored_login(wandb_server()[0]):
        return ""
    return (
        "wandb has no login on this machine; run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline and"
        " `wandb sync` later"
    )


def _stored_login(host: str) -> bool:
    """Whether `wandb login` has been here: it writes ~/.netrc (or $NETRC)."""
    files = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for name in files:
        file = Path(os.path.expanduser(name))  # noqa: PTH111 - Path's own raises without a home
        if not os.path.isfile(file):  # noqa: PTH113
            continue
        try:
            if netrc.netrc(file).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            return True  # what it says is wandb's to tell
    return False
