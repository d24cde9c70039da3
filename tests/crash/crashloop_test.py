# SPDX-License-Identifier: Apache-2.0
"""The crash loops of tests/crash/crashloop: kill -9 at every named point, power cuts; and an oracle that can fail."""

import loops
import pytest
from crash_rounds_test import seed_of
from jobs import Restored
from power_disk import NotPermitted
from workload import Oracle


def run(mode, request, count):
    try:
        loops.RUN[mode](seed_of(request), count)
    except NotPermitted as why:
        pytest.skip(str(why))


def test_a_hundred_kills_at_every_crash_point_and_at_random_lose_nothing(request):
    run("kill", request, 100)


def test_thirty_power_cuts_lose_nothing_that_was_told_durable(request):
    run("power", request, 30)


@pytest.mark.long
def test_ten_thousand_kills(request):
    run("kill", request, 10_000)


@pytest.mark.long
def test_four_thousand_power_cuts(request):
    run("power", request, 4_000)


def test_the_oracle_sees_a_lost_commit_a_foreign_step_and_an_epoch_that_comes_again():
    oracle = Oracle()
    oracle.begun = 9
    oracle.commit(7, 5)
    oracle.restored(Restored(5, 7, (1, 1), [], {}, 1), (7, 5))
    with pytest.raises(AssertionError, match="LOST: told .7, 5., restored .6, 4."):
        oracle.restored(Restored(4, 6, (1, 1), [], {}, 1), (7, 5))
    with pytest.raises(AssertionError, match="LOST"):
        oracle.restored(None, (7, 5))
    with pytest.raises(AssertionError, match="restored step 10, opened was 9"):
        oracle.restored(Restored(10, 8, (1, 1), [], {}, 1), (7, 5))
    oracle.new_epoch((1, 4))
    with pytest.raises(AssertionError, match="epoch"):
        oracle.new_epoch((1, 4))


def test_after_a_power_cut_of_everything_the_oracle_holds_to_what_was_listed_as_on_disk():
    oracle = Oracle()
    oracle.begun = 9
    oracle.commit(8, 9)
    oracle.listed([{"name": "5", "sequence": 4, "persisted": True}, {"name": "9", "sequence": 8, "persisted": False}])
    oracle.memory_is_gone()
    oracle.restored(Restored(5, 4, (1, 1), [], {}, 1), oracle.told)
    with pytest.raises(AssertionError, match="LOST"):
        oracle.restored(Restored(3, 3, (1, 1), [], {}, 1), oracle.told)
    with pytest.raises(AssertionError, match="listed is step 11"):
        oracle.listed([{"name": "11", "sequence": 12, "persisted": False}])
