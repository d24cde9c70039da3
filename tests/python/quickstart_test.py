# SPDX-License-Identifier: Apache-2.0
"""The main job's script against the file store: its verdict can be yes and no, and it leaves nothing behind."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

HERE = Path(__file__).parent
EXAMPLES = ROOT / "integrations/python/examples"
sys.path.insert(0, str(EXAMPLES))

import quickstart_report as report  # noqa: E402

KEYS = {"bit_equal", "steps_lost", "restore_ms", "detect_ms", "blocked_ms_per_step", "step_ms_with",
        "step_ms_without", "state_bytes"}


@pytest.fixture
def run(tmp_path):
    """Runs quickstart.py with the fake command and a train.py that uses the file store."""
    (tmp_path / "gemel").write_text(f"#!/bin/sh\nexec {sys.executable} {HERE / 'fake_gemel.py'} \"$@\"\n")
    (tmp_path / "gemel").chmod(0o755)
    train = tmp_path / "train.py"
    train.write_text(f"import runpy, sys\nsys.path.insert(0, {str(HERE)!r})\n"
                     f"sys.argv[:1] = ['x', {str(EXAMPLES / 'train.py')!r}]\n"
                     f"runpy.run_path({str(HERE / 'run_with_file_store.py')!r}, run_name='__main__')\n")

    def runner(*arguments):
        return subprocess.run(
            [sys.executable, EXAMPLES / "quickstart.py", "--bin-dir", tmp_path, "--train", train, "--out",
             tmp_path / "out", *arguments], capture_output=True, text=True, timeout=120)

    return runner


def test_a_killed_job_goes_on_bit_for_bit(run, tmp_path):
    done = run("--steps", "12", "--kill-at", "4", "--kill-all-at", "9", "--width", "64", "--layers", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("BIT-EQUAL") == 2
    facts = json.loads((tmp_path / "out" / "quickstart.json").read_text())
    assert KEYS <= facts.keys()
    assert facts["bit_equal"] and facts["restored_step"] in (3, 4)
    assert facts["steps_lost"] == 4 - facts["restored_step"]
    assert facts["power_cut"]["bit_equal"] and facts["power_cut"]["restored_step"] in (8, 9)
    assert (tmp_path / "out" / "timeline.png").read_bytes().startswith(b"\x89PNG")


def test_a_trainer_that_fails_is_a_sentence_and_not_a_success(run):
    done = run("--steps", "8", "--width", "63")  # no multiple of the number of heads
    assert done.returncode == 1
    assert "error: run 'whole': rank" in done.stderr


def story(step=2, steps=4):
    def run_of(first):
        return [{"event": "step", "step": s, "loss": float(s).hex()} for s in range(first, steps + 1)]

    whole = [run_of(1) + [{"event": "done"}] for _ in range(2)]
    return whole, [run_of(step + 1) for _ in range(2)]


def finished(run):
    return [events + [{"event": "done"}] for events in run]


def test_the_verdict_is_no_when_one_bit_of_one_rank_differs():
    whole, run = story()
    assert report.is_bit_equal(whole, finished(run), [2, 2], 4)
    assert not report.is_bit_equal(whole, finished(run), [2, 1], 4)
    assert not report.is_bit_equal(whole, finished(run), [4, 4], 4)
    for change in (lambda r: r[1][0].update(loss="0x1.8000000000001p+1"), lambda r: r[1].pop(),
                   lambda r: r[0].append({"event": "step", "step": 5, "loss": "0x1p+0"})):
        bad = copy.deepcopy(run)
        change(bad)
        assert not report.is_bit_equal(whole, finished(bad), [2, 2], 4)


def test_a_rank_that_was_killed_may_lack_its_last_line_and_no_other():
    whole, run = story()
    run[1].pop()
    assert report.is_bit_equal(whole, run, [2, 2], 4)
    assert not report.is_bit_equal(whole, finished(run), [2, 2], 4)
    run[1].pop()
    assert not report.is_bit_equal(whole, run, [2, 2], 4)
    whole, run = story()
    run[1][1].update(loss="0x1.8000000000001p+1")
    assert not report.is_bit_equal(whole, run, [2, 2], 4)
