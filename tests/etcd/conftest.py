# SPDX-License-Identifier: Apache-2.0
"""The folder's modules, and those of tests/e2e behind them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).resolve().parents[1] / "e2e"))
