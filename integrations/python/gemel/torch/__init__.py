# SPDX-License-Identifier: Apache-2.0
"""Gemel for PyTorch: ``Checkpointer`` keeps a training job's state in cluster memory."""

from gemel.torch.checkpointer import Checkpointer, Restored
from gemel.torch.commits import SaveStats

__all__ = ["Checkpointer", "Restored", "SaveStats"]
