# SPDX-License-Identifier: Apache-2.0
"""One rank of the small job of tests/python/torch_worker.py, on a real cluster: CASE save|check ADDRESSES OUT."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

import cluster

cluster.use_built_package()

import gemel.torch.checkpointer as checkpointer

real = checkpointer.connect

import torch_worker  # puts the file store in its place

checkpointer.connect = real

if __name__ == "__main__":
    torch_worker.main(*sys.argv[1:])
