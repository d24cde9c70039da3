# SPDX-License-Identifier: Apache-2.0
"""Finds the package in the tree when it is not installed."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

try:
    import gemel  # noqa: F401
except ImportError:
    sys.path.insert(0, str(ROOT / "integrations" / "python"))
sys.path.insert(0, str(Path(__file__).parent))
