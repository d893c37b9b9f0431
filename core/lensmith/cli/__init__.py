"""The `lensmith` command. Importing it is cheap: commands import what they compute with when they run."""

from __future__ import annotations

import errno
import gc
import os
import sys

_USERS = {errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EROFS}
"""What the system may refuse, and only its user can mend."""


def main() -> None:
    """Entry point: run the command; mistakes of a user end with one message and exit code 2."""
    gc.disable()  # commands that take longer enable it again
    # pydantic looks for plugins of its own in every distribution; set it to nothing to have them.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from lensmith.cli.commands import build
    from lensmith.errors import Interrupted, LensmithError
    from lensmith_registry import RegistryError

    try:
        build(only=sys.argv[1] if len(sys.argv) > 1 else None)()
    except Interrupted as stopped:
        if str(stopped):
            print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.signal)
    except (LensmithError, RegistryError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in _USERS or error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        if "torch" not in sys.modules:
            gc.freeze()  # a last search for cycles takes a seventh of a short command's time, and the process ends


__all__ = ["main"]
