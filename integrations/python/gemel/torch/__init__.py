# SPDX-License-Identifier: Apache-2.0
"""Gemel for PyTorch.

``Checkpointer`` keeps a training job's state in cluster memory. ``StorageWriter``, ``StorageReader``
and ``Stager`` are for torch.distributed.checkpoint. Each is loaded when it is first used.
"""

from __future__ import annotations

import importlib

_MODULES = {
    "Checkpointer": "checkpointer", "Restored": "checkpointer", "SaveStats": "commits",
    "Stager": "stager", "StorageReader": "dcp_reader", "StorageWriter": "dcp_writer"}
__all__ = sorted(_MODULES)


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(importlib.import_module(f"gemel.torch.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'gemel.torch' has no attribute {name!r}")
