# SPDX-License-Identifier: Apache-2.0
"""The rules of this repository that a program can check. `python3 tests/tidy/run.py [--build-dir build/release]`.

Each check prints ok or FAIL and its problems, one sentence a line; the last line counts. Exit code 1 when one failed.
"""

import argparse
import json
import pathlib
import sys
import time
import unittest

import banned
import compiled
import layout
import planted
from tree import Tree

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PROBLEMS_SHOWN_MAX = 40

CHECKS = {
    "format": compiled.format_of_sources,
    "direction": layout.direction,
    "cycles": layout.cycles,
    "sizes": layout.sizes,
    "banned-calls": banned.banned_calls,
    "headers-alone": compiled.headers_alone,
    "client-library": compiled.client_library,
    "words": banned.repository_words,
    "licence-lines": layout.licence_lines,
    "asserts": layout.asserts,
    "readmes": layout.readmes,
    "planted": planted.planted_bugs,
}


def run_selftest():
    """The checks' own tests; returns (passed, failed)."""
    suite = unittest.defaultTestLoader.loadTestsFromName("selftest")
    outcome = unittest.TextTestRunner(stream=sys.stderr, verbosity=0).run(suite)
    failed = len(outcome.failures) + len(outcome.errors)
    return outcome.testsRun - failed, failed


def main():
    parser = argparse.ArgumentParser(description="Checks the rules of this repository.")
    parser.add_argument("--root", default=str(ROOT), help="the tree to check")
    parser.add_argument("--build-dir", help="a configured and built tree; without it the checks that need one are left out")
    parser.add_argument("--json", help="write the counts to this file")
    parser.add_argument("--no-selftest", action="store_true", help="leave out the checks' own tests")
    parser.add_argument("checks", nargs="*", metavar="check", help=f"of {', '.join(CHECKS)}; all when none is named")
    options = parser.parse_args()
    unknown = sorted(set(options.checks) - set(CHECKS))
    if unknown:
        parser.error(f"no check {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    tree = Tree(options.root, options.build_dir)
    passed = failed = skipped = 0
    for name in options.checks or CHECKS:
        if name == "client-library" and not options.build_dir:
            print(f"left out {name}: give --build-dir")
            skipped += 1
            continue
        good = run_check(name, tree)
        passed, failed = passed + good, failed + (not good)
    if not options.no_selftest and not options.checks:
        good, bad = run_selftest()
        print(f"{'ok  ' if not bad else 'FAIL'} selftest: {good} of {good + bad}")
        passed, failed = passed + good, failed + bad
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({"passed": passed, "failed": failed, "skipped": skipped}))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def run_check(name, tree):
    started = time.monotonic()
    result = CHECKS[name](tree)
    seconds = time.monotonic() - started
    verdict = "FAIL" if result.problems else "ok  "
    note = f", {result.note}" if result.note else ""
    print(f"{verdict} {name}: {result.looked_at} looked at{note}, {seconds:.1f} s", flush=True)
    for problem in result.problems[:PROBLEMS_SHOWN_MAX]:
        print(f"     {problem}")
    if len(result.problems) > PROBLEMS_SHOWN_MAX:
        print(f"     and {len(result.problems) - PROBLEMS_SHOWN_MAX} more")
    return not result.problems


if __name__ == "__main__":
    sys.exit(main())
