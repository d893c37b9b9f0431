"""Errors of the registry. Each message names the part, the package and the cure."""

from __future__ import annotations


class RegistryError(Exception):
    """Base class of everything that the registry refuses."""


class UnknownComponentError(RegistryError):
    """A name that no installed package registers for that kind."""


class DuplicateComponentError(RegistryError):
    """Two distributions register the same kind and name."""


class BrokenPluginError(RegistryError):
    """The part exists, but the package that provides it could not be used."""
