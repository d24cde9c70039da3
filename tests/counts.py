# SPDX-License-Identifier: Apache-2.0
"""Counts of test cases out of the reports that GoogleTest, ctest, pytest and tests/tidy write.

Rule: doubt counts as failed. A program that ctest calls failed adds a failure even when its own report shows none
(it crashed after, or before, writing); a report that is missing or broken is a failure of its suite.
"""

import dataclasses
import json
import xml.etree.ElementTree


@dataclasses.dataclass(frozen=True)
class Counts:
    passed: int
    failed: int
    skipped: int

    def __add__(self, other):
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)


def from_gtest(path):
    report = json.loads(path.read_text())
    cases = [case for suite in report["testsuites"] for case in suite["testsuite"]]
    failed = sum(1 for case in cases if case.get("failures"))
    skipped = sum(1 for case in cases if not case.get("failures")
                  and (case.get("status") == "NOTRUN" or case.get("result") in ("SKIPPED", "SUPPRESSED")))
    # Failures outside any case, in a global environment, are only in the total.
    failed = max(failed, int(report.get("failures", 0)))
    return Counts(max(0, len(cases) - failed - skipped), failed, skipped)


def from_ctest(path, gtest_folder):
    """One case of the ctest report is one program; those built on GoogleTest are counted by their cases."""
    total = Counts(0, 0, 0)
    for program in xml.etree.ElementTree.parse(path).getroot().iter("testcase"):
        reports = [gtest_folder / f"{program.get('name')}.json"]
        own = Counts(0, 0, 0)
        try:
            for report in reports:
                own += from_gtest(report)
        except FileNotFoundError:
            pass
        except (ValueError, KeyError):
            own += Counts(0, 1, 0)
        succeeded = program.get("status") == "run"
        if program.get("status") == "disabled":
            own += Counts(0, 0, 1)
        elif not succeeded and own.failed == 0:
            own += Counts(0, 1, 0)
        elif succeeded and own == Counts(0, 0, 0):
            own += Counts(1, 0, 0)
        total += own
    return total


def from_pytest(path):
    total = Counts(0, 0, 0)
    for suite in xml.etree.ElementTree.parse(path).getroot().iter("testsuite"):
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        total += Counts(max(0, int(suite.get("tests", 0)) - failed - skipped), failed, skipped)
    return total


def from_checks(path):
    """The report of tests/tidy: {"passed": N, "failed": N, "skipped": N}."""
    report = json.loads(path.read_text())
    return Counts(int(report["passed"]), int(report["failed"]), int(report["skipped"]))


def judge(count, exit_code, limit_s):
    """The counts of a suite that ended with exit_code, and a note for its row."""
    note = ""
    try:
        counted = count()
    except (OSError, ValueError, KeyError, xml.etree.ElementTree.ParseError):
        counted, note = Counts(0, 1, 0), "it ended without a report"
    if exit_code == 124:
        return counted if note else counted + Counts(0, 1, 0), f"ended after {limit_s} s, its limit"
    if exit_code != 0 and counted.failed == 0:
        return counted + Counts(0, 1, 0), f"it ended with code {exit_code} though no case failed"
    if exit_code == 0 and counted.passed == 0 and counted.failed == 0:
        return Counts(0, 1, counted.skipped), "it ran no test"
    return counted, note
