"""Takes a trained PyTorch model to a microcontroller or a phone, and proves that it still works there.

The commands as typed functions, imported when first used: ``build``, ``preserve``, ``verify``,
``inspect``, ``compare``, ``available_targets``, ``available_runtimes``; ``pool_split`` for float training
scripts; and ``Compressor`` and ``own_loop`` for compression in a training loop of your own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sgsc_edge.api import (
        available_runtimes,
        available_targets,
        build,
        compare,
        inspect,
        own_loop,
        preserve,
        verify,
    )
    from sgsc_edge.compression.compressor import Compressor
    from sgsc_edge.preservation.pool import pool_split

    __version__: str

__all__ = [
    "Compressor",
    "__version__",
    "available_runtimes",
    "available_targets",
    "build",
    "compare",
    "inspect",
    "own_loop",
    "pool_split",
    "preserve",
    "verify",
]

_HOMES = {
    "Compressor": "sgsc_edge.compression.compressor",
    "available_runtimes": "sgsc_edge.api",
    "available_targets": "sgsc_edge.api",
    "build": "sgsc_edge.api",
    "compare": "sgsc_edge.api",
    "inspect": "sgsc_edge.api",
    "own_loop": "sgsc_edge.api",
    "pool_split": "sgsc_edge.preservation.pool",
    "preserve": "sgsc_edge.api",
    "verify": "sgsc_edge.api",
}


def __getattr__(name: str) -> object:
    """Import a public function, or read the version, when it is asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("sgsc-edge")
    if name not in _HOMES:
        raise AttributeError(f"module 'sgsc_edge' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
