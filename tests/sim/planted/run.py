# SPDX-License-Identifier: Apache-2.0
"""The bench of planted bugs: plants one at a time and looks which seed or test finds it.

    tests/sim/planted/run.py NAME...          campaigns for these bugs
    tests/sim/planted/run.py --all            for all, up to --minutes each
    tests/sim/planted/run.py --five           five of today, each with the seed or the test that found it before
    tests/sim/planted/run.py --table          the table of found.json, as in docs/RELIABILITY.md

Needs build/release with gemel-sim; unit and golden tests that are built there are the second line, power cuts of the
servers and the manager with the bug in them (tests/crash/crashloop) the third. Nothing in the tree is changed; the
patched files lie in build/planted. --record writes what was found to found.json. A seed counts only when the program
without the bug passes it. Exit code 1 when a bug was not found, 2 when the bench itself failed.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from overlay import BenchError, Build, Overlay, files_of  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
FOUND = HERE / "found.json"
SEED_SECONDS_MAX = 120  # of one run of the simulator: longer counts as found
TEST_SECONDS_MAX = 180
POWER_CUTS = 40  # in a crash loop
CRASH_SECONDS_MAX = 300
FIVE = 5
FIRST_SEED = 1
MOVED_MINUTES = 2.0  # --five: a recorded seed no longer finds it, for the simulator has changed: look again


@dataclasses.dataclass
class Finding:
    by: str = "nothing"  # sim, test, crash or nothing
    seed: int = 0
    test: str = ""
    what: str = ""  # the violation, the failed test or why nothing finds it
    seconds: float = 0.0
    seeds: int = 0  # that were run

    def text(self):
        if self.by == "sim":
            return f"seed {self.seed} in {self.seconds:.0f} s"
        if self.by == "crash":
            return f"power cuts, seed {self.seed}"
        return f"`{self.test}`" if self.by == "test" else f"not found in {self.seeds} seeds"


def run_seed(program, seed):
    """What the simulator says of one seed: a violation, or an empty text."""
    try:
        ran = subprocess.run(["nice", "-n", "10", str(program), "--seed", str(seed)], capture_output=True, text=True,
                             errors="replace", timeout=SEED_SECONDS_MAX, check=False)
    except subprocess.TimeoutExpired:
        return f"does not end within {SEED_SECONDS_MAX} s"
    if ran.returncode == 0:
        return ""
    for line in ran.stdout.splitlines():
        if line.startswith("VIOLATION "):
            return line.removeprefix("VIOLATION ")
    if ran.returncode < 0:
        last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        return f"{signal.Signals(-ran.returncode).name}: {last.replace(f'{ROOT}/', '')[:200]}"
    raise BenchError(f"{program} --seed {seed} ended with {ran.returncode}: {ran.stderr.strip()[-300:]}")


def campaign(program, clean, limits):
    """Runs seeds in order until one finds the bug or the time is over."""
    finding, started, seed = Finding(), time.monotonic(), FIRST_SEED
    with concurrent.futures.ThreadPoolExecutor(limits.jobs) as pool:
        while time.monotonic() - started < limits.minutes * 60:
            batch = range(seed, seed + limits.jobs * 4)
            seed = batch.stop
            for found, what in zip(batch, pool.map(lambda one: run_seed(program, one), batch)):
                finding.seeds += 1
                if what and not run_seed(clean, found):
                    seconds = time.monotonic() - started
                    return dataclasses.replace(finding, by="sim", seed=found, what=what, seconds=seconds)
    return dataclasses.replace(finding, seconds=time.monotonic() - started)


def run_test(program):
    """Name of the first test that fails, or an empty text."""
    try:
        ran = subprocess.run(["nice", "-n", "10", str(program), "--gtest_fail_fast"], capture_output=True, text=True,
                             errors="replace", timeout=TEST_SECONDS_MAX, check=False)
    except subprocess.TimeoutExpired:
        return f"does not end within {TEST_SECONDS_MAX} s"
    if ran.returncode == 0:
        return ""
    failed = re.search(r"^\[  FAILED  \] ([\w/.]+)", ran.stdout, re.M)
    if failed:
        return failed.group(1)
    begun = re.findall(r"^\[ RUN      \] ([\w/.]+)", ran.stdout, re.M)  # it crashed in the last one
    return begun[-1] if begun else f"ended with {ran.returncode}"


def tests_of(build, overlay, only=""):
    """The first unit or golden test that fails with the bug in it and passes without."""
    for name in build.test_programs(overlay.libraries()):
        if only and name != only:
            continue
        program = overlay.link(name)
        failed = run_test(program) if program else ""
        if failed and not run_test(build.folder / "bin" / name):
            return Finding(by="test", test=f"{name} {failed}", what=failed)
    return Finding()


def run_power_cuts(build_dir, seed):
    """What a crash loop says of the programs in `build_dir`, or an empty text."""
    loop = [sys.executable, str(ROOT / "tests" / "crash" / "crashloop"), "--mode", "power", "--rounds", str(POWER_CUTS),
            "--seed", str(seed)]
    ran = subprocess.run(loop, env={**os.environ, "GEMEL_BUILD_DIR": str(build_dir)}, capture_output=True, text=True,
                         errors="replace", timeout=CRASH_SECONDS_MAX, check=False)
    if ran.returncode not in (0, 1):
        raise BenchError(f"the crash loop ended with {ran.returncode}: {(ran.stdout + ran.stderr).strip()[-300:]}")
    return ran.stderr.strip().splitlines()[-1] if ran.returncode else ""


def crashes_of(build, overlay, seed):
    """The power cuts that lose or tear something with the bug in the programs."""
    folder = overlay.folder / "build"
    if not any([overlay.link(name) for name in ("gemel-server", "gemel-placement")]):
        return Finding()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "bin").mkdir(parents=True)
    (folder / "python").symlink_to(build.folder / "python")
    for program in (build.folder / "bin").iterdir():
        with_bug = overlay.folder / "bin" / program.name
        (folder / "bin" / program.name).symlink_to(with_bug if with_bug.is_file() else program)
    what = run_power_cuts(folder, seed)
    return Finding(by="crash", seed=seed, what=what) if what else Finding()


class Bench:
    def __init__(self, options):
        self.options = options
        self.build = Build(ROOT, pathlib.Path(options.build_dir))
        self.clean = self.build.folder / "bin" / "gemel-sim"
        self.build.make(["gemel-sim"])

    def overlay(self, name):
        return Overlay(self.build, HERE / f"{name}.patch", ROOT / "build" / "planted" / name)

    def search(self, name):
        """The simulator first; what it does not find in its time, the tests or power cuts may."""
        overlay = self.overlay(name)
        program = overlay.link("gemel-sim")
        finding = campaign(program, self.clean, self.options) if program else Finding()
        if finding.by == "nothing":
            seeds, seconds = finding.seeds, finding.seconds
            finding = tests_of(self.build, overlay)
            if finding.by == "nothing":
                finding = crashes_of(self.build, overlay, FIRST_SEED)
                if finding.by == "crash" and run_power_cuts(self.build.folder, FIRST_SEED):
                    finding = Finding()
            finding = dataclasses.replace(finding, seeds=seeds, seconds=seconds)
        return finding

    def replay(self, name, known):
        """Only what found it before; when the simulator has changed since, a short search, then the tests."""
        overlay = self.overlay(name)
        started = time.monotonic()
        if known.by == "sim":
            program = overlay.link("gemel-sim")
            what = run_seed(program, known.seed) if program else ""
            if what and not run_seed(self.clean, known.seed):
                return dataclasses.replace(known, what=what, seconds=time.monotonic() - started)
            print(f"    seed {known.seed} no longer finds {name}: looking again; run with --record to keep what is found")
            finding = campaign(program, self.clean, dataclasses.replace(self.options, minutes=MOVED_MINUTES))
            if finding.by != "nothing":
                return finding
            by_test = tests_of(self.build, overlay)
            return dataclasses.replace(by_test, seeds=finding.seeds, seconds=time.monotonic() - started)
        if known.by == "crash":
            return crashes_of(self.build, overlay, known.seed)
        program_name = known.test.split(" ")[0]
        self.build.make([program_name])
        return tests_of(self.build, overlay, program_name)


@dataclasses.dataclass
class Options:
    minutes: float
    jobs: int
    build_dir: str


def read_found():
    known = json.loads(FOUND.read_text()) if FOUND.is_file() else {}
    return {name: Finding(**entry) for name, entry in known.items()}


def write_found(found):
    entries = {name: {key: value for key, value in dataclasses.asdict(finding).items() if value not in ("", 0, 0.0)}
               for name, finding in sorted(found.items())}
    for entry in entries.values():
        entry["seconds"] = round(entry.get("seconds", 0.0), 1)
    FOUND.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")


def planted():
    return sorted(path.stem for path in HERE.glob("*.patch"))


def five_of(day, found):
    """Five that something finds, another five each day, all of them in turn."""
    known = [name for name in planted() if name in found and found[name].by != "nothing"]
    start = day * FIVE
    return [known[(start + i) % len(known)] for i in range(min(FIVE, len(known)))]


def table(found):
    names = planted()
    lines = ["| planted bug | where | found by | what it said |", "|---|---|---|---|"]
    for name in names:
        finding = found.get(name, Finding(what="not tried yet"))
        where = ", ".join(files_of(HERE / f"{name}.patch"))
        what = finding.what.replace("|", "/").replace("\n", " ")
        lines.append(f"| {name} | {where} | {finding.text()} | {what[:110]} |")
    hits = sum(found.get(name, Finding()).by != "nothing" for name in names)
    in_simulation = sum(found.get(name, Finding()).by == "sim" for name in names)
    lines.append(f"\n{hits} of {len(names)} found, {in_simulation} of them by the simulator.")
    return "\n".join(lines)


def parse():
    parser = argparse.ArgumentParser(description="Plants bugs one at a time and looks what finds them.")
    parser.add_argument("--all", action="store_true", help="every bug")
    parser.add_argument("--missing", action="store_true", help="those that found.json does not have, or has as not found")
    parser.add_argument("--five", action="store_true", help="five of the day, with what found them before")
    parser.add_argument("--table", action="store_true", help="print the table of found.json and end")
    parser.add_argument("--record", action="store_true", help="write what was found to found.json, bug by bug")
    parser.add_argument("--minutes", type=float, default=10.0, help="of a campaign for one bug")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="seeds that run side by side")
    parser.add_argument("--day", type=int, default=int(time.time() // 86400), help="chooses the five")
    parser.add_argument("--build-dir", default=str(ROOT / "build" / "release"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"files of {HERE.name}/ without .patch")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(planted()))
    if unknown:
        parser.error(f"no planted bug {', '.join(unknown)}; there are {', '.join(planted())}")
    if not (options.all or options.missing or options.five or options.table or options.names):
        parser.error("name a bug, or give --all, --missing, --five or --table")
    return options


def chosen(options, found):
    if options.five:
        return five_of(options.day, found)
    if options.missing:
        return [name for name in planted() if found.get(name, Finding()).by == "nothing"]
    return planted() if options.all else options.names


def main():
    options, found = parse(), read_found()
    if options.table:
        print(table(found))
        return 0
    bench = Bench(Options(options.minutes, options.jobs, options.build_dir))
    names, lost = chosen(options, found), 0
    for name in names:
        finding = bench.replay(name, found[name]) if options.five else bench.search(name)
        lost += finding.by == "nothing"
        print(f"{'FAIL' if finding.by == 'nothing' else 'ok  '} {name}: {finding.text()}"
              + (f": {finding.what}" if finding.what else ""), flush=True)
        if options.record:
            if finding.by == "nothing" and name in found:
                finding.what = found[name].what if found[name].by == "nothing" else ""
            found = {**read_found(), name: finding}
            write_found(found)
    print(f"{len(names) - lost} passed, {lost} failed")
    return 1 if lost or not names else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        print(f"run.py: {error}", file=sys.stderr)
        sys.exit(2)
