# SPDX-License-Identifier: Apache-2.0
"""clang-tidy on the sources that changed, or on all with --all; verdicts of unchanged sources are kept.

Changed is what differs from the merge base with origin/main, or from the commit before when HEAD is on it, plus what
is not committed. A source is checked anew when it, anything of ours that it includes, its compile command or
.clang-tidy changed. With --minutes the check ends in time and says which sources it did not reach; they count as
skipped.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

from compiled import closure_of
from tree import Tree

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CHECKER = "clang-tidy-19"
SECONDS_A_FILE_MAX = 240
LINES_SHOWN_MAX = 30


def git(*arguments):
    """The output's lines, or None when git has no answer."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else None


def changed_files():
    """The set of changed paths, or None when there is no history to compare with."""
    base = git("merge-base", "origin/main", "HEAD")
    if base and base == git("rev-parse", "HEAD"):
        base = git("rev-parse", "--verify", "-q", "HEAD~1")
    base = base or git("rev-parse", "--verify", "-q", "HEAD~1")
    differing = git("diff", "--name-only", base[0]) if base else None
    if differing is None:
        return None
    return set(differing) | set(git("ls-files", "--others", "--exclude-standard") or [])


def sources_of(tree, changed, sources):
    """The sources to check: changed ones, and for a changed header its own source, else the first that includes it."""
    chosen = {name for name in sources if name in changed}
    for header in sorted(name for name in changed if name.endswith(".h")):
        if header[:-2] + ".cc" in sources:
            chosen.add(header[:-2] + ".cc")
        elif not any(header in closure_of(tree, name) for name in chosen):
            users = [name for name in sorted(sources) if header in closure_of(tree, name)]
            chosen.update(users[:1])
    return sorted(chosen)


def key_of(tree, name, command):
    digest = hashlib.sha256(command.encode())
    for member in sorted(closure_of(tree, name)) + [".clang-tidy"]:
        if (tree.root / member).is_file():
            digest.update(f"\0{member}\0{tree.text(member)}".encode())
    return digest.hexdigest()


def check_source(name, build_dir, deadline):
    """(name, verdict, output): verdict is True, False, or None when the time was over before."""
    left = deadline - time.monotonic()
    if left <= 0:
        return name, None, ""
    command = ["nice", CHECKER, "-p", str(build_dir), "--quiet", "--extra-arg=-Wno-unknown-warning-option",
               "--extra-arg=-Wno-unused-command-line-argument", str(ROOT / name)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=min(left, SECONDS_A_FILE_MAX))
    except subprocess.TimeoutExpired:
        if left < SECONDS_A_FILE_MAX:
            return name, None, ""
        return name, False, f"{CHECKER} took longer than {SECONDS_A_FILE_MAX} s: split the file"
    complaints = re.search(r"(?:error|warning): .*\[.*\]|error:", done.stdout)
    return name, done.returncode == 0 and not complaints, done.stdout + ("" if done.returncode == 0 else done.stderr)


def main():
    parser = argparse.ArgumentParser(description="clang-tidy on what changed.")
    parser.add_argument("--build-dir", default="build/release", help="has compile_commands.json")
    parser.add_argument("--all", action="store_true", help="every source")
    parser.add_argument("--minutes", type=float, default=600.0, help="end after this time")
    parser.add_argument("--json", help="write the counts to this file")
    options = parser.parse_args()
    deadline = time.monotonic() + options.minutes * 60
    build_dir = pathlib.Path(options.build_dir).resolve()
    database = build_dir / "compile_commands.json"
    if not database.is_file():
        parser.error(f"{database} is not there: build first (cmake --preset release)")
    tree = Tree(ROOT, build_dir)
    commands = {os.path.relpath(entry["file"], ROOT): entry["command"] for entry in json.loads(database.read_text())}
    sources = {name for name in commands if name.endswith(".cc") and name in set(tree.files)}
    changed = None if options.all else changed_files()
    if changed is None:
        print("every source is checked" + ("" if options.all else ": git has no commit to compare with"))
    chosen = sorted(sources) if changed is None else sources_of(tree, changed, sources)
    passed, failed, skipped = check_all(tree, chosen, commands, deadline)
    if not chosen:
        print("no source changed")
        passed = 1
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({"passed": passed, "failed": failed, "skipped": skipped}))
    print(f"{passed} passed, {failed} failed, {skipped} not reached")
    return 1 if failed else 0


def check_all(tree, chosen, commands, deadline):
    cache_path = tree.build_dir / "clang-tidy.json"
    cache = json.loads(cache_path.read_text()) if cache_path.is_file() else {}
    keys = {name: key_of(tree, name, commands[name]) for name in chosen}
    # The smallest files first: as many as possible within the time.
    waiting = sorted((name for name in chosen if cache.get(name) != keys[name]), key=lambda name: (len(tree.text(name)), name))
    passed, failed, skipped = len(chosen) - len(waiting), 0, 0
    print(f"{len(chosen)} sources, {passed} unchanged since they passed", flush=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for name, verdict, output in pool.map(lambda name: check_source(name, tree.build_dir, deadline), waiting):
            if verdict is None:
                skipped += 1
                print(f"left {name}: no time; tests/run.sh --long clang-tidy checks it", flush=True)
            elif verdict:
                passed += 1
                cache[name] = keys[name]
            else:
                failed += 1
                print(f"FAIL {name}\n" + "\n".join(output.splitlines()[:LINES_SHOWN_MAX]), flush=True)
    cache_path.write_text(json.dumps(cache, indent=0, sort_keys=True))
    return passed, failed, skipped


if __name__ == "__main__":
    sys.exit(main())
