"""Where other libraries' interfaces are known to move: one file a library, each probed where it is first used.

A probe raises `LibraryError`, which names the library, its version and the versions that were tested. Importing this
package imports none of them. `probes.py` holds what `lensmith doctor` runs.
"""

from __future__ import annotations

from collections.abc import Iterable

from lensmith import Probe

_PROBES = {
    "packed_samples": ("transformers", "attention keeps packed samples apart"),
    "remembered_keys": ("transformers", "a cache of keys and values gives what one pass gives"),
    "prefix": ("transformers", "a prefix reaches the keys"),
    "adapter": ("peft", "an adapter changes the logits and folds in"),
    "operations": ("torch", "operations are counted, attention included"),
    "timm_levels": ("timm", "a level gives its map"),
    "sentencepiece_scores": ("sentencepiece", "a model is read piece by piece"),
}


def offered() -> Iterable[Probe]:
    """All of them, for the hook of a plugin module."""
    return [
        Probe(statement, library, f"lensmith_plugins.compat.probes:{function}")
        for function, (library, statement) in _PROBES.items()
    ]
