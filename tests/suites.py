# SPDX-License-Identifier: Apache-2.0
"""Runs the test suites and counts; called by tests/run.sh, which has prepared the machine.

Contract: every suite of SUITES is a row of the summary with its time and counts. A suite that is missing, that
crashes, that runs out of its time, that finds no test or whose build fails counts as failed. The last line is
`N passed, N failed`, and the exit code is 0 only when nothing failed. Logs and reports lie in build/logs and
build/results.
"""

import argparse
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import counts

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
LONG_FACTOR = 8  # --long gives each suite this many times its minutes
BUILD_MINUTES = 45


@dataclasses.dataclass(frozen=True)
class Suite:
    name: str
    kind: str  # tidy, ctest, pytest or clang-tidy
    preset: str  # the build it needs
    minutes: int  # budget on 2 cores, without the build
    folder: str  # must exist
    labels: str = ""  # ctest: regular expression over labels
    tests: tuple = ()  # ctest: how the names of its tests begin; empty: all with these labels


# The test programs that are built and run under a sanitizer; under the thread sanitizer, those with threads.
UNDER_ASAN = ("common_test", "common_digest_test", "transport_test", "sim_fabric_test", "sim_host_test", "sim_rpc_test",
              "sim_session_test", "sim_test", "verbs_test")
UNDER_TSAN = ("common_test", "common_digest_test", "transport_test", "client_test", "client_cuda_test")

SUITES = (
    Suite("tidy", "tidy", "release", 5, "tests/tidy"),
    Suite("unit", "ctest", "release", 2, "tests/unit", labels="^(unit|fuzz)$"),
    Suite("golden", "ctest", "release", 1, "tests/golden", labels="^golden$"),
    Suite("sim", "ctest", "release", 5, "tests/sim", labels="^sim$"),
    Suite("planted", "ctest", "release", 6, "tests/sim/planted", labels="^planted$"),
    Suite("python", "pytest", "release", 4, "tests/python"),
    Suite("e2e", "pytest", "release", 14, "tests/e2e"),
    Suite("etcd", "pytest", "release", 6, "tests/etcd"),
    Suite("crash", "pytest", "release", 8, "tests/crash"),
    Suite("faults", "pytest", "release", 8, "tests/faults"),
    Suite("lab", "pytest", "release", 6, "tests/lab"),
    Suite("fuzz", "ctest", "asan", 2, "tests/fuzz", labels="^fuzz$"),
    Suite("asan", "ctest", "asan", 4, "tests/unit", labels="^(unit|sim-some)$", tests=(*UNDER_ASAN, "sim_some")),
    Suite("tsan", "ctest", "tsan", 3, "tests/unit", labels="^unit$", tests=UNDER_TSAN),
    Suite("clang-tidy", "clang-tidy", "release", 2, "tests/tidy"),
)


# What a preset builds for its suites.
TARGETS = {"release": "all", "asan": " ".join((*UNDER_ASAN, "tests_fuzz")), "tsan": " ".join(UNDER_TSAN)}


def run(command, log, timeout_s, env=None):
    """Runs in its own process group; returns the exit code, 124 when the time ran out and the group was killed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, start_new_session=True,
                                   env={**os.environ, **(env or {})})
        try:
            return process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return 124
        finally:
            stop_group(process)


def stop_group(process):
    """Ends what is left of the process group: after a timeout everything, after a clean end only stragglers."""
    for signal_number, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, signal_number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            continue
    process.poll()


class Builds:
    """Each preset is built once, when the first suite needs it."""

    def __init__(self):
        self.state = {}
        self.seconds = {}

    def ready(self, preset):
        if preset not in self.state:
            started = time.monotonic()
            script = (". .ci/setup.sh; set -Eeuo pipefail; gemel_trap; "
                      f"gemel_configure {preset}; gemel_build {preset} {TARGETS[preset]}")
            log = BUILD / "logs" / f"suite-build-{preset}.log"
            code = run(["bash", "-c", script], log, BUILD_MINUTES * 60)
            self.seconds[preset] = time.monotonic() - started
            self.state[preset] = code == 0
            print(log.read_text(errors="replace"), end="", flush=True)
            if code == 124:
                print(f"error: the build of {preset} took longer than {BUILD_MINUTES} minutes and was ended; "
                      "running it again goes on from there.")
        return self.state[preset]


def build_environment(preset):
    binaries = BUILD / preset / "bin"
    python_path = [str(BUILD / preset / "python"), str(ROOT / "integrations/python"), os.environ.get("PYTHONPATH", "")]
    return {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(part for part in python_path if part),
        "GEMEL_BUILD_DIR": str(BUILD / preset),
        "ASAN_OPTIONS": "detect_stack_use_after_return=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
    }


def command_of(suite, options, results):
    """The command line of a suite and the function that counts its reports."""
    build = BUILD / suite.preset
    jobs = str(os.cpu_count() or 1)
    if suite.kind == "tidy":
        report = results / "tidy.json"
        return ([sys.executable, "tests/tidy/run.py", "--build-dir", str(build), "--json", str(report)],
                lambda: counts.from_checks(report))
    if suite.kind == "clang-tidy":
        report = results / "clang-tidy.json"
        command = [str(sys.executable), "tests/tidy/clang_tidy.py", "--build-dir", str(build), "--json", str(report)]
        command += ["--all"] if options.long else ["--minutes", str(suite.minutes)]
        return command, lambda: counts.from_checks(report)
    if suite.kind == "pytest":
        report = results / "pytest.xml"
        command = [str(ROOT / ".venv/bin/python"), "-m", "pytest", suite.folder, "-q", "-ra", "-p", "no:cacheprovider",
                   "--junitxml", str(report), "--timeout", str(suite.minutes * 60 * (LONG_FACTOR if options.long else 1)),
                   "-o", "markers=long: takes minutes, runs with tests/run.sh --long only"]
        command += [] if options.long else ["-m", "not long"]
        return command, lambda: counts.from_pytest(report)
    report = results / "ctest.xml"
    labels = suite.labels.replace("sim$", "sim(-long)?$") if options.long else suite.labels
    command = ["ctest", "--test-dir", str(build), "-L", labels, "-R", f"^({'|'.join(suite.tests)})", "-j", jobs,
               "--output-on-failure", "--no-tests=error", "--output-junit", str(report)]
    return command, lambda: counts.from_ctest(report, results / "gtest")


def run_suite(suite, options, builds):
    """Returns (Counts, seconds, note)."""
    if not (ROOT / suite.folder).is_dir():
        return counts.Counts(0, 1, 0), 0.0, f"the folder {suite.folder} is missing: add its tests"
    if not builds.ready(suite.preset):
        return counts.Counts(0, 1, 0), 0.0, f"not run, the build of {suite.preset} failed (build/logs)"
    results = BUILD / "results" / suite.name
    shutil.rmtree(results, ignore_errors=True)
    (results / "gtest").mkdir(parents=True)
    environment = build_environment(suite.preset)
    environment["GTEST_OUTPUT"] = f"json:{results / 'gtest'}/"
    log = BUILD / "logs" / f"suite-{suite.name}.log"
    command, count = command_of(suite, options, results)
    limit_s = suite.minutes * 60 * (LONG_FACTOR if options.long else 1) + 60
    started = time.monotonic()
    code = run(command, log, limit_s, environment)
    seconds = time.monotonic() - started
    counted, note = counts.judge(count, code, limit_s)
    if counted.failed:
        print_tail(suite, log)
    return counted, seconds, note


def print_tail(suite, log):
    lines = log.read_text(errors="replace").splitlines()
    print(f"--- {suite.name}: the end of build/logs/{log.name}")
    print("\n".join(lines[-60:]))
    print("---", flush=True)


def parse():
    parser = argparse.ArgumentParser(prog="tests/run.sh", description="Builds and runs the test suites.")
    parser.add_argument("--long", action="store_true", help="more seeds and rounds, clang-tidy on every file")
    parser.add_argument("--list", action="store_true", help="name the suites and their budgets")
    parser.add_argument("suites", nargs="*", metavar="suite", help="only these suites, in their usual order")
    options = parser.parse_args()
    unknown = sorted(set(options.suites) - {suite.name for suite in SUITES})
    if unknown:
        parser.error(f"no suite {', '.join(unknown)}; there are {', '.join(suite.name for suite in SUITES)}")
    return options


def main():
    options = parse()
    if options.list:
        for suite in SUITES:
            print(f"{suite.name:<11} {suite.minutes:>2} min  {suite.folder}  (build {suite.preset})")
        return 0
    chosen = [suite for suite in SUITES if not options.suites or suite.name in options.suites]
    builds, rows, started = Builds(), [], time.monotonic()
    for suite in chosen:
        print(f"==> suite {suite.name}", flush=True)
        counted, seconds, note = run_suite(suite, options, builds)
        rows.append((suite, counted, seconds, note))
        print(f"    {counted.passed} passed, {counted.failed} failed, {counted.skipped} skipped in {seconds:.0f} s"
              + (f": {note}" if note else ""), flush=True)
    print_summary(rows, builds, time.monotonic() - started)
    return 1 if any(counted.failed for _, counted, _, _ in rows) else 0


def print_summary(rows, builds, seconds):
    print(f"\n{'':<16} {'seconds':>8} {'budget':>7} {'passed':>7} {'failed':>7} {'skipped':>8}")
    for preset, build_seconds in builds.seconds.items():
        print(f"{'build ' + preset:<16} {build_seconds:>8.0f}")
    for suite, counted, suite_seconds, _ in rows:
        print(f"{suite.name:<16} {suite_seconds:>8.0f} {suite.minutes * 60:>7} "
              f"{counted.passed:>7} {counted.failed:>7} {counted.skipped:>8}")
    print(f"{'all':<16} {seconds:>8.0f}\n")
    passed = sum(counted.passed for _, counted, _, _ in rows)
    failed = sum(counted.failed for _, counted, _, _ in rows)
    print(f"{passed} passed, {failed} failed", flush=True)


if __name__ == "__main__":
    sys.exit(main())
