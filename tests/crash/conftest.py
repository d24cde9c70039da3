# SPDX-License-Identifier: Apache-2.0
"""The helpers of tests/e2e, and the option that replays a choice of rounds."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

import cluster as clusters  # noqa: E402

clusters.use_built_package()


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=None, help="which process dies when, round by round")
