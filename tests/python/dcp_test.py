# SPDX-License-Identifier: Apache-2.0
"""StorageWriter, StorageReader and Stager on real ranks over the file store; tests/e2e/dcp_test.py has the cluster."""

from pathlib import Path

import pytest
from ranks import run_ranks

WORKER = Path(__file__).parent / "dcp_worker.py"


@pytest.mark.parametrize("cases", [
    ["odd_tensors_and_values", "ids_and_stateful", "partial_and_missing", "overwriting", "pickled_writer"],
    ["refused_values", "failing_rank", "plan_caching", "without_collectives", "staging"]], ids=lambda c: c[0])
def test_cases_on_two_ranks(tmp_path, cases):
    run_ranks(2, [WORKER, *cases], {"GEMEL_FILE_STORE": str(tmp_path), "TEST_FOLDER": "/ckpt"})


def test_what_two_ranks_saved_one_loads(tmp_path):
    store = {"GEMEL_FILE_STORE": str(tmp_path)}
    run_ranks(2, [WORKER, "save_fsdp"], store)
    run_ranks(1, [WORKER, "load_plain"], store)
