# SPDX-License-Identifier: Apache-2.0
"""The planted bugs of tests/sim/planted: each says what it breaks and applies to the tree as it is."""

import json
import os
import re
import subprocess

from tree import Result

FOLDER = "tests/sim/planted/"
FOUND = FOLDER + "found.json"
HEADER = ("Planted: ", "Breaks: ", "Needs: ")
BENCH = ("README.md", "run.py", "overlay.py", "planted.cmake", "found.json")  # of the folder, beside the bugs
CHANGED_LINES_MAX = 15
PRODUCTION = ("common", "transport", "placement", "server", "client", "integrations")


def planted_bugs(tree):
    result = Result()
    for name in tree.files:
        if not name.startswith(FOLDER) or name.removeprefix(FOLDER) in BENCH:
            continue
        result.looked_at += 1
        if not name.endswith(".patch"):
            result.add(name, "not a patch")
            continue
        lines = tree.text(name).splitlines()
        for number, word in enumerate(HEADER, 1):
            if not re.match(re.escape(word) + r"\S", lines[number - 1] if number <= len(lines) else ""):
                result.add(f"{name}:{number}", f"the line does not begin with `{word.strip()}` and say more")
        for problem in problems_of_diff(lines):
            result.add(name, problem)
        refusal = refusal_of(tree.root, name)
        if refusal:
            result.add(name, f"does not apply: {refusal}; make it anew against this tree, with the same bug")
    known_findings(tree, result)
    return result


def known_findings(tree, result):
    """What found.json says is about bugs that are there, and names what finds each."""
    if FOUND not in tree.files:
        return
    for name, finding in json.loads(tree.text(FOUND)).items():
        if f"{FOLDER}{name}.patch" not in tree.files:
            result.add(FOUND, f"{name} is not planted any more: take its entry away")
        if not {"sim": "seed", "crash": "seed", "test": "test", "nothing": "what"}.get(finding.get("by"), "") in finding:
            result.add(FOUND, f"{name} says neither which seed or test finds it nor why nothing does")


def problems_of_diff(lines):
    """Sentences about what the diff touches and how much; git judges its form."""
    targets = [match.group(1) for line in lines if (match := re.match(r"\+\+\+ b/(\S+)", line))]
    for target in targets:
        if target.split("/")[0] not in PRODUCTION:
            yield f"changes {target}, which is not production code"
    for sign in "+-":
        changed = sum(line.startswith(sign) and not line.startswith(sign * 3) for line in lines)
        if changed > CHANGED_LINES_MAX:
            yield f"{changed} lines with `{sign}`, at most {CHANGED_LINES_MAX}"


def refusal_of(root, name):
    """What git says against applying the patch to the files at `root`, which need not be a checkout; empty when nothing."""
    settings = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    # Inside another repository git would skip, in silence, what it takes for files outside of the current folder.
    settings["GIT_CEILING_DIRECTORIES"] = str(root.parent)
    tried = subprocess.run(["git", "apply", "--check", name], cwd=root, env=settings, capture_output=True, text=True,
                           check=False)
    if tried.returncode == 0:
        return ""
    said = [line.removeprefix("error: ") for line in tried.stderr.splitlines() if line.strip()]
    return said[0] if said else f"git apply ends with {tried.returncode}"
