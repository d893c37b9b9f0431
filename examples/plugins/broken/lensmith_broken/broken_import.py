"""Imports what nobody installed."""

import a_library_that_nobody_installed  # noqa: F401

api_version = 1
