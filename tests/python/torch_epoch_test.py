# SPDX-License-Identifier: Apache-2.0
"""The token of an incarnation is drawn, never taken from the launcher: torchrun's static rendezvous says run id
`none` and restart 0 at every start, and each agent counts restarts for itself."""

import json
from pathlib import Path

from ranks import run_ranks

WORKER = Path(__file__).parent / "epoch_worker.py"
STATIC_RENDEZVOUS = {"TORCHELASTIC_RUN_ID": "none"}


def launch(store, out):
    """The epoch that each of two ranks acquired."""
    run_ranks(2, [WORKER, store, out], STATIC_RENDEZVOUS)
    return [tuple(json.loads(Path(f"{out}.{rank}").read_text())) for rank in range(2)]


def test_ranks_whose_agents_count_restarts_differently_share_an_epoch_and_two_launches_do_not(tmp_path):
    first = launch(tmp_path / "store", tmp_path / "first")
    second = launch(tmp_path / "store", tmp_path / "second")
    assert first[0] == first[1] and second[0] == second[1]
    assert first[0] < second[0]
