"""Finds the compiled modules of a wheel: one library holds all of them.

A build of a checkout has a file for each module. Python finds these files first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from types import ModuleType

NAMES = frozenset(f"rcmgr.{name}" for name in (
    "admission.admission", "admission.door", "admission.eviction", "admission.manager_base",
    "admission.room", "admission.task_connections",
    "counting.bucket_table", "counting.connection_tracker", "counting.denials",
    "counting.event_ring", "counting.groups", "counting.leases", "counting.memory_stats",
    "counting.pacing", "counting.prefix_table", "counting.reading", "counting.scope",
    "counting.token_bucket",
    "peers",
))
"""The modules that setup.py compiles."""


class Library:
    """Entry of `sys.meta_path`. Every module has an init function of its name in the library."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = library() if name in NAMES else None
        if file is None:
            return None
        spec = ModuleSpec(name, ExtensionFileLoader(name, file), origin=file)
        spec.has_location = True
        return spec


def library() -> str | None:
    """The file of `rcmgr._cython`."""
    stem = os.path.join(os.path.dirname(__file__), "_cython")
    return next((stem + end for end in EXTENSION_SUFFIXES if os.path.exists(stem + end)), None)


def use() -> None:
    """Let Python find the modules in the library if they have no files."""
    if Library not in sys.meta_path:
        sys.meta_path.append(Library)
