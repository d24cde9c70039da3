# SPDX-License-Identifier: Apache-2.0
"""Gemel: state replication for training and inference clusters.

``gemel.torch`` holds the PyTorch integration, ``gemel.errors`` the errors.
``Client``, ``Writer`` and ``Restore`` come from the native module, which is
loaded when one of them is first used.
"""

from __future__ import annotations

from gemel import errors
from gemel.errors import Error

__version__ = "0.1.0"
__all__ = ["Client", "Error", "Restore", "Stage", "Writer", "errors"]

_NATIVE = ("Client", "Restore", "Stage", "Writer")


def __getattr__(name: str):
    if name in _NATIVE:
        from gemel import _native

        return getattr(_native, name)
    raise AttributeError(f"module 'gemel' has no attribute {name!r}")
