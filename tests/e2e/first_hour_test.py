# SPDX-License-Identifier: Apache-2.0
"""What a newcomer is told in the first hour: each answer names the cause and the way out, in at most three lines."""

import re
import subprocess

import first_hour
import pytest

# Scene, which of its commands, exit code, and what the answer must say.
CASES = (
    ("Nothing runs yet", 0, 3, ("no cluster below", "gemel up")),
    ("Nothing runs yet", 1, 1, ("GEMEL_ADDRESS", "gemel run")),
    ("Nothing runs yet", 2, 1, ("no socket is there", "gemel up")),
    ("The address is wrong", 0, 1, ("127.0.0.1:1", "unix:///PATH", "gemel up")),
    ("The address is wrong", 1, 1, ("a file is there, no socket", "correct the address")),
    ("The address is wrong", 2, 1, ("a folder is there, no socket", "correct the address")),
    ("The address is wrong", 3, 4, ("no gemel-placement answers at 127.0.0.1:1", "gemel up")),
    ("The address is wrong", 4, 5, ("192.0.2.1", "loopback")),
    ("Something is mistyped", 0, 2, ("no command 'statsu'", "did you mean 'status'")),
    ("Something is mistyped", 1, 2, ("no flag '--memroy'", "did you mean '--memory'")),
    ("Something is mistyped", 2, 2, ("'lots'", "64MiB")),
    ("Something is mistyped", 3, 127, ("no program 'trian.py'", "nothing was started")),
    ("Something is mistyped", 4, 2, ("no flag '--serevrs'", "did you mean '--servers'")),
    ("The cluster does not start", 0, 6, ("more than the", "would fit", "--memory")),
    ("The cluster does not start", 1, 5, ("is taken by process", "--listen")),
    ("The cluster does not start", 2, 4, ("/proc/gemel cannot be written", "--dir")),
    ("The cluster does not start", 3, 5, ("cannot be written by user 65534", "--dir")),
    ("The cluster does not start", 4, 6, ("the disk is full", "df -h")),
    ("The cluster does not start", 5, 5, ("has format 0", "another --dir")),
    ("It starts, and once more does no harm", 0, 0, ("is up", "export GEMEL_ADDRESS=", "gemel down")),
    ("It starts, and once more does no harm", 1, 0, ("up already", "export GEMEL_ADDRESS=")),
    ("It starts, and once more does no harm", 2, 5, ("a cluster runs", "gemel down")),
    ("Two copies, but one server", 0, 1, ("2 copies need 2 servers and 1 is alive", "copies=1")),
    ("Too little memory", 0, 1, ("64.00 MiB", "short", "--memory")),
    ("It works", 0, 0, ("saved step 1",)),
    ("It works", 1, 0, ("gpt@1 is on disk",)),
    ("The job or the step is mistyped", 0, 3, ("known jobs: gpt", "did you mean 'gpt'")),
    ("The job or the step is mistyped", 1, 3, ("it has: 1", "did you mean '1'")),
    ("The job or the step is mistyped", 2, 1, ("'gtp'", "gemel jobs")),
    ("The job or the step is mistyped", 3, 0, ("has no snapshot yet", "did you mean 'gpt'")),
    ("Somebody else's cluster", 0, 1, ("user 65534", "belongs to user 0", "gemel up --dir")),
    ("Somebody else's cluster", 1, 5, ("belongs to user 0", "user 65534")),
    ("A client of another version", 0, 1, ("99", "same Gemel")),
    ("Python does not find the package", 0, None, ("No module named 'gemel'", "export PYTHONPATH=BUILD/python")),
    ("gemel-placement is dead", 0, 4, ("is dead", "gemel up --placement")),
    ("gemel-placement is dead", 1, 1, ("no answer in time", "gemel-placement", "gemel status")),
    ("gemel-placement is dead", 2, 0, ("is up",)),
    ("A server is dead", 0, 1, ("its server has ended", "gemel up")),
    ("A server is dead", 1, 0, ("is up",)),
    ("The end", 0, 0, ("processes",)),
    ("The end", 1, 3, ("no cluster below", "gemel up")),
)


def may_mount():
    """Whether this user can make a small disk and become another user: the hour needs both."""
    return subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0 and \
        subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", "true"], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def hour():
    if not may_mount():
        pytest.skip("needs root: a disk that is full, another user")
    import gemel.torch  # noqa: F401, once, before the forks
    return {scene.title: scene for scene in first_hour.play()}


@pytest.mark.parametrize("title, index, code, words", CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_the_answer_names_the_cause_and_the_way_out(hour, title, index, code, words):
    told = hour[title].told[index]
    assert code is None or told.code == code, told
    for word in words:
        assert word in told.text, f"{word!r} is not in {told.text!r}"
    if told.code != 0 and "gemel run" not in told.command:
        assert len(told.text.splitlines()) <= first_hour.LINES_MAX, told.text
    assert not re.search(r"UNKNOWN:|ipv4:|absl|errno", told.text), f"the inside shows: {told.text}"


def test_every_command_of_the_hour_has_a_case(hour):
    wanted = {(title, index) for title, scene in hour.items() for index in range(len(scene.told))}
    assert wanted == {(title, index) for title, index, _, _ in CASES}


def test_the_page_shows_what_is_said(hour):
    assert first_hour.page(hour.values()) == first_hour.PAGE.read_text(), \
        "docs/FIRST_HOUR.md is behind: tests/e2e/first_hour.py --write"
