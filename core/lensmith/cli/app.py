"""The whole command line, for those who call it from Python. New commands go into `commands.COMMANDS`."""

from __future__ import annotations

from lensmith.cli.commands import build

app = build()
