"""What Lensmith plugins are: records, hooks and discovery. Imports neither torch nor transformers."""

from lensmith_registry.component import Component, Kind, PartSpec
from lensmith_registry.described import Described
from lensmith_registry.discovery import discover, register
from lensmith_registry.errors import (
    BrokenPluginError,
    DuplicateComponentError,
    RegistryError,
    UnknownComponentError,
)
from lensmith_registry.hooks import API_VERSION, hookimpl, hookspec
from lensmith_registry.installed import Plugin, Registry
from lensmith_registry.isolation import Watch, isolated
from lensmith_registry.probe import Probe

__all__ = [
    "API_VERSION",
    "BrokenPluginError",
    "Component",
    "Described",
    "DuplicateComponentError",
    "Kind",
    "PartSpec",
    "Plugin",
    "Probe",
    "Registry",
    "RegistryError",
    "UnknownComponentError",
    "Watch",
    "discover",
    "hookimpl",
    "hookspec",
    "isolated",
    "register",
]
