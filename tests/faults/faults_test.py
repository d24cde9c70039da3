# SPDX-License-Identifier: Apache-2.0
"""The programs of this folder with CI's sizes, and with those of `--long`."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NOT_PERMITTED = 77


def run(program, *arguments, timeout_s):
    done = subprocess.run([sys.executable, str(HERE / program), *arguments], text=True, timeout=timeout_s,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout)
    if done.returncode == NOT_PERMITTED:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, f"{program} {' '.join(arguments)}: see its table above"


def test_every_operation_under_every_fault_of_one_server():
    run("matrix.py", timeout_s=600)


def test_who_was_stopped_in_a_save_changes_nothing_when_it_wakes():
    run("paused.py", "--rounds", "3", timeout_s=200)


def test_dead_hanging_and_cut_off_servers_are_found_and_slow_ones_are_not_evicted():
    # Six trials have no p99, and a machine that others share has its own pauses: four of five must keep the limit.
    run("detection.py", "--trials", "6", "--pauses-s", "60", "--share", "0.8", timeout_s=400)


@pytest.mark.long
def test_every_operation_under_every_fault_twice():
    run("matrix.py", "--reps", "2", timeout_s=3600)


@pytest.mark.long
def test_a_hundred_pauses_two_of_them_for_a_minute():
    run("paused.py", "--rounds", "100", "--minute-long", "2", timeout_s=3600)


@pytest.mark.long
def test_detection_over_thirty_trials_and_half_an_hour_of_pauses():
    run("detection.py", "--trials", "30", "--pauses-s", "1800", timeout_s=3600)
