# SPDX-License-Identifier: Apache-2.0
"""Calls that only the seams may make, with the list of exceptions in allow.txt, and words the repository does not hold."""

import dataclasses
import pathlib
import re

import tree as tree_module
from tree import Result

ALLOW = pathlib.Path(__file__).resolve().parent / "allow.txt"


def _call(*names):
    """A call of a C function by its bare or ::name, not of a member or of something in a namespace.

    No call without arguments: that is an accessor of ours, declared or used in its own class.
    """
    return r"(?<![\w.>:~])(?<!\w )(?:::)?(?:" + "|".join(names) + r")\s*\((?!\s*\))"


RULES = {
    "clock": (r"\b(?:system_clock|steady_clock|high_resolution_clock)\b|\bclock_gettime\b|\bgettimeofday\b|"
              r"\bclock_nanosleep\b|\btimerfd_create\b|(?<![\w.>])(?:::|std::)?time\s*\(\s*(?:nullptr|NULL|0|&)|\babsl::Now\b",
              "time comes from Clock"),
    "random": (r"\bs?rand\s*\(|\brandom_device\b|\bmt19937|\bstd::shuffle\b|\bdefault_random_engine\b|"
               r"\buniform_\w+_distribution\b|\bgetrandom\b|\babsl::(?:BitGen|Uniform)\b", "random numbers come from Random"),
    "thread": (r"\bstd::thread\b(?!::)|\bstd::jthread\b|\bpthread_create\b|\bstd::async\b", "one loop owns a part"),
    "socket": (_call("socket", "socketpair", "connect", "bind", "listen", "accept", "accept4", "sendmsg", "recvmsg",
                     "sendto", "recvfrom"), "the network comes from Net"),
    "file": (_call("open", "openat", "creat", "fopen", "fdopen", "memfd_create", "rename", "unlink", "fsync", "fdatasync")
             + r"|\b[oi]?fstream\b|\bstd::filesystem\b", "files come from Disk"),
    "process": (_call("execv", "execve", "execvp", "execl", "execlp", "posix_spawn", "posix_spawnp",
                      "system", "popen", "kill", "waitpid", "pidfd_open") + r"|\bv?fork\s*\(", "processes come from Process"),
    "env": (r"\b(?:secure_)?getenv\b|\bsetenv\b|\bputenv\b", "settings come from flags and files"),
    "sleep": (_call("sleep", "usleep", "nanosleep") + r"|\bsleep_for\b|\bsleep_until\b|\babsl::SleepFor\b",
              "waiting is done on the Loop"),
    "hash": (r"\bstd::hash\b|\babsl::Hash(?:Of)?\b", "std::hash differs between builds"),
    "copy": (r"(?<![\w.>])(?:std::|__builtin_)?(?:mem(?:cpy|move|pcpy)|copy|copy_n|copy_backward)\s*\(",
             "state is copied by CopyState (common/copies.h), which counts it"),
    "throw": (r"\bthrow\b|\bcatch\s*\(", "no exception crosses our code"),
}
# Rules that hold for these parts of the tree only.
ONLY_IN = {"copy": ("server/", "client/core/", "transport/")}
UNORDERED = "unordered"  # a rule of its own: iteration over a container without order
WORDS = "words"
UNFINISHED = "unfinished"


@dataclasses.dataclass
class Allowance:
    prefix: str
    rules: tuple
    line: int
    used: bool = False


def read_allowances(path, problems):
    allowances = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"(\S+): ([a-z, ]+) — (.{10,})", line.strip())
        rules = tuple(re.split(r"[, ]+", match.group(2).strip())) if match else ()
        unknown = [rule for rule in rules if rule not in RULES and rule not in (UNORDERED, WORDS)]
        if not match or unknown:
            problems.append(f"{path.name}:{number}: not of the form `path-prefix: rule, rule — reason`"
                            + (f", no rule {', '.join(unknown)}" if unknown else ""))
            continue
        allowances.append(Allowance(match.group(1), rules, number))
    return allowances


def allowed(allowances, name, rule):
    """Marks every allowance that covers the finding, so that each one in the file has to be needed."""
    hits = [allowance for allowance in allowances if rule in allowance.rules and name.startswith(allowance.prefix)]
    for allowance in hits:
        allowance.used = True
    return bool(hits)


def banned_calls(tree, allow_path=ALLOW):
    result = Result()
    allowances = read_allowances(allow_path, result.problems)
    for name in tree.having(*tree_module.CPP):
        result.looked_at += 1
        code = tree.code(name)
        for rule, (pattern, instead) in RULES.items():
            if not name.startswith(ONLY_IN.get(rule, "")):
                continue
            for match in re.finditer(pattern, code):
                if not allowed(allowances, name, rule):
                    line = code.count("\n", 0, match.start()) + 1
                    result.add(f"{name}:{line}", f"{rule}: `{match.group(0).strip()}` is banned here, {instead}")
        for line, variable in unordered_loops(tree, name):
            if not allowed(allowances, name, UNORDERED):
                result.add(f"{name}:{line}", f"{UNORDERED}: iteration over `{variable}`, whose order differs between "
                           "builds; use a sorted container or sort first")
    for allowance in allowances:
        if not allowance.used and allowance.rules != (WORDS,):
            result.problems.append(f"{allow_path.name}:{allowance.line}: nothing in {allowance.prefix} needs this; remove it")
    return result


_UNORDERED_TYPE = re.compile(r"\b(?:std::unordered_(?:multi)?(?:map|set)|absl::flat_hash_(?:map|set)|absl::node_hash_(?:map|set))\s*<")


def unordered_names(code):
    """Variables and members declared with a container that has no order."""
    names = set()
    for match in _UNORDERED_TYPE.finditer(code):
        depth, position = 1, match.end()
        while position < len(code) and depth:
            depth += (code[position] == "<") - (code[position] == ">")
            position += 1
        declared = re.match(r"\s*[&*]?\s*(\w+)\s*(?:;|=|\{|,|\)|\bABSL_|\bGEMEL_)", code[position:position + 160])
        if declared:
            names.add(declared.group(1))
    return names


def unordered_loops(tree, name):
    names = unordered_names(tree.code(name))
    if name.endswith(".cc"):
        header = tree.resolve(name, name[:-3] + ".h")
        names |= unordered_names(tree.code(header)) if header else set()
    if not names:
        return
    code, choice = tree.code(name), "|".join(sorted(names))
    for match in re.finditer(rf"\bfor\s*\([^;{{}}]*?:\s*(?:\w+(?:\.|->))*({choice})\s*\)|\b({choice})\.begin\s*\(", code):
        yield code.count("\n", 0, match.start()) + 1, match.group(1) or match.group(2)


# Machine paths, hosts of registries, marks of unfinished work. In pieces, so that this file passes its own check.
_PATHS = ("/wo" "rk/", "/ro" "ot/", "/ho" "me/", "/tmp/bash" "_jobs", "/tmp/ge" "mel/")
_HOSTS = ("py" "pi.org", "python" "hosted.org", "debian" ".org", "download.py" "torch.org", "docker" ".io", "gh" "cr.io",
          "hugging" "face.co", "crates" ".io", "proxy.go" "lang.org", "npm" "js.org", "conda" ".anaconda.org", "qua" "y.io")
_UNFINISHED = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b")


def repository_words(tree, allow_path=ALLOW):
    result = Result()
    allowances = read_allowances(allow_path, [])
    patterns = [(re.compile(re.escape(word)), f"names `{word}`, which holds on one machine only") for word in _PATHS]
    patterns += [(re.compile(re.escape(word)), f"names the registry host `{word}`") for word in _HOSTS]
    for name in tree.files:
        if name.endswith((".png", ".bin", ".gz")) or name == "LICENSE":
            continue
        result.looked_at += 1
        text = tree.text(name)
        for pattern, sentence in patterns + ([(_UNFINISHED, "marks unfinished work")] if is_code(name) else []):
            for match in pattern.finditer(text):
                if not allowed(allowances, name, WORDS):
                    result.add(f"{name}:{text.count(chr(10), 0, match.start()) + 1}", sentence)
    return result


def is_code(name):
    return name.endswith(tree_module.SOURCES + (".cmake", ".toml", ".json", ".txt")) or "." not in name.rsplit("/", 1)[-1]
