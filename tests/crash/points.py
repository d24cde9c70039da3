# SPDX-License-Identifier: Apache-2.0
"""The crash points, as the daemons themselves list them, and what makes each one come."""

import subprocess

from cluster import BUILD
from hosts import PLACEMENT

# Reached when a server dies beside the victim, and stays away for so many seconds.
NEEDS_A_DEATH = {"placement.death-durable": 0.3, "placement.member-durable": 0.0, "placement.repair-heard": 0.4,
                 "server.pull-done": 0.4}


def listed():
    """Name -> what is done and not yet done there. From the refusal of an unknown point, which ends in the list."""
    done = subprocess.run([str(BUILD / "bin" / "gemel-placement"), "--dir", "/nonexistent", "--abort-at", "?"],
                          capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and "'?'" in done.stderr, done
    rows = [line.strip().split(": ", 1) for line in done.stderr.splitlines() if line.startswith("  ")]
    points = {name: meaning for name, meaning in rows}
    assert len(points) >= 40, points
    return points


def victims(name, servers):
    """Who may die there."""
    return [PLACEMENT] if name.startswith("placement.") else servers
