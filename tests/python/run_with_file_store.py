# SPDX-License-Identifier: Apache-2.0
"""Runs a training script with the file store in place of a cluster: run_with_file_store.py SCRIPT ARGS."""

import runpy
import sys

import conftest  # noqa: F401
import file_store

import gemel.torch.checkpointer as checkpointer

if __name__ == "__main__":
    checkpointer.connect = file_store.Client
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
