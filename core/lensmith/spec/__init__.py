"""The spec file: strict reading, composition, validation against the installed parts, and its JSON Schema."""

from lensmith.spec.build import dump, installed, load_spec, part_class, run_spec_class
from lensmith.spec.compose import recipes
from lensmith.spec.run import DataSpec, ModelSpec, RunSpec, SourceSpec, StageSpec

__all__ = [
    "DataSpec",
    "ModelSpec",
    "RunSpec",
    "SourceSpec",
    "StageSpec",
    "dump",
    "installed",
    "load_spec",
    "part_class",
    "recipes",
    "run_spec_class",
]
