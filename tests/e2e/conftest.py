# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a cluster for one test, one for all tests of a file, and what is printed when a test fails."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "python"))

import cluster as clusters  # noqa: E402

clusters.use_built_package()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if outcome.get_result().failed:
        item.session.stash.setdefault(_failed, set()).add(item.nodeid)
        for fixture in item.funcargs.values():
            if isinstance(fixture, clusters.Cluster):
                _show_logs(outcome.get_result(), fixture)


_failed = pytest.StashKey()


def _show_logs(report, shown):
    for name in ["placement", *(folder.name for folder in sorted(Path(shown.dir).glob("server-*")))]:
        report.sections.append((f"the end of {name}/log", clusters.tail(shown.log(name))))


@pytest.fixture
def cluster():
    """Three servers for one test, which may do anything to them."""
    with clusters.running() as made:
        yield made


@pytest.fixture(scope="module")
def shared():
    """Three servers for all tests of a file that leave them as they were; each test takes its own job."""
    with clusters.running() as made:
        yield made
