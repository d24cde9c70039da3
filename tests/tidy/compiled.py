# SPDX-License-Identifier: Apache-2.0
"""Checks that need a tool: clang-format, the compiler on each header alone, the client library's dynamic section."""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess

from tree import Result

FORMATTER = "clang-format-19"
FORBIDDEN_LIBRARIES = ("grpc", "protobuf", "rocksdb", "gpr", "upb")
FILES_PER_FORMATTER = 20
COMPILE_SECONDS_MAX = 120


def format_of_sources(tree):
    result = Result()
    names = tree.having(".h", ".cc", ".c")
    if not shutil.which(FORMATTER):
        result.add(FORMATTER, f"not found: run .ci/setup.sh, or apt-get install {FORMATTER}")
        return result
    result.looked_at = len(names)
    for start in range(0, len(names), FILES_PER_FORMATTER):
        batch = names[start:start + FILES_PER_FORMATTER]
        done = subprocess.run([FORMATTER, "--dry-run", "--style=file", *batch], cwd=tree.root, capture_output=True,
                              text=True, check=False)
        wrong = sorted(set(re.findall(r"^(\S+?):\d+:\d+: (?:warning|error)", done.stderr, re.M)))
        for name in wrong:
            result.add(name, f"not formatted: {FORMATTER} -i {name}")
        if done.returncode != 0 and not wrong:
            result.add(FORMATTER, done.stderr.strip().splitlines()[0] if done.stderr.strip() else "failed without a word")
    return result


def compile_commands(tree):
    path = tree.build_dir / "compile_commands.json" if tree.build_dir else None
    return json.loads(path.read_text()) if path and path.is_file() else []


def include_flags(tree):
    """Include folders of all compile commands: a header may use what its own target links."""
    flags = [f"-I{tree.root}", f"-I{tree.root / 'client/include'}"]
    for entry in compile_commands(tree):
        words = shlex.split(entry["command"])
        for position, word in enumerate(words):
            flag = f"-I{word[2:]}" if word.startswith("-I") and len(word) > 2 else None
            if word == "-isystem":
                flag = f"-isystem{words[position + 1]}"
            if flag and flag not in flags:
                flags.append(flag)
    return flags


def closure_of(tree, name, seen=None):
    seen = seen if seen is not None else set()
    if name not in seen:
        seen.add(name)
        for _, include in tree.includes(name):
            resolved = tree.resolve(name, include)
            if resolved:
                closure_of(tree, resolved, seen)
    return seen


def needs_build(tree, name):
    outside = {include for member in closure_of(tree, name) for _, include in tree.includes(member)}
    return any(include.endswith(".pb.h") or include.startswith(("nanobind/", "Python.h", "cuda.h")) for include in outside)


def proved_by_build(tree):
    """Headers that the build has compiled alone: first include of their own source, whose object is up to date."""
    proved = set()
    for entry in compile_commands(tree):
        source = os.path.relpath(entry["file"], tree.root)
        compiled_to = pathlib.Path(entry["directory"]) / entry.get("output", "")
        if not source.endswith(".cc") or source not in tree.files or not compiled_to.is_file():
            continue
        includes = tree.includes(source)
        header = tree.resolve(source, includes[0][1]) if includes else None
        newest = max((tree.root / member).stat().st_mtime for member in closure_of(tree, source))
        if header == source[:-3] + ".h" and compiled_to.stat().st_mtime >= newest:
            proved.add(header)
    return proved


def headers_alone(tree):
    """Every header compiles as a program of its own: the build has shown it, or it is compiled here.

    Verdicts of an unchanged header and its closure are kept.
    """
    result = Result()
    flags = include_flags(tree)
    cache_path = (tree.build_dir or tree.root / "build") / "tidy-headers.json"
    cache = json.loads(cache_path.read_text()) if cache_path.is_file() else {}
    waiting, kept, left_out, proved = {}, {}, 0, proved_by_build(tree)
    for name in tree.having(".h"):
        if name in proved:
            continue
        if needs_build(tree, name) and not compile_commands(tree):
            left_out += 1
            continue
        key = key_of(tree, name, flags)
        kept[name] = key
        if cache.get(name) != key:
            waiting[name] = key
    result.looked_at = len(kept) + len(proved)
    result.note = f"{len(waiting)} compiled, {len(kept) - len(waiting)} unchanged, {len(proved)} shown by the build"
    if left_out:
        result.note += f", {left_out} left out for want of a build (--build-dir)"
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for name, error in zip(waiting, pool.map(lambda header: compile_alone(tree, header, flags), waiting)):
            if error:
                result.add(name, f"does not compile alone: {error}")
                kept.pop(name)
    if cache_path.parent.is_dir():
        cache_path.write_text(json.dumps(kept, indent=0, sort_keys=True))
    return result


def key_of(tree, name, flags):
    digest = hashlib.sha256("\0".join(sorted(flags)).encode())
    for member in sorted(closure_of(tree, name)):
        digest.update(f"\0{member}\0{tree.text(member)}".encode())
    return digest.hexdigest()


def compile_alone(tree, name, flags):
    """None, or the compiler's first complaint."""
    launcher = ["nice"] if shutil.which("nice") else []
    try:
        done = subprocess.run([*launcher, "g++", "-std=c++20", "-fsyntax-only", "-fPIC", "-Wall", "-Wno-pragma-once-outside-header",
                               *flags, "-x", "c++", str(tree.root / name)], cwd=tree.root, capture_output=True, text=True,
                              timeout=COMPILE_SECONDS_MAX, check=False)
    except subprocess.TimeoutExpired:
        return f"the compiler took longer than {COMPILE_SECONDS_MAX} s"
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    return (errors or done.stderr.splitlines() or ["the compiler failed without a word"])[0]


def client_library(tree):
    """libgemel.so needs no gRPC, Protobuf or RocksDB and gives out nothing but gemel_* names."""
    result = Result()
    if not tree.build_dir:
        result.note = "no build named (--build-dir)"
        return result
    found = sorted(path for path in tree.build_dir.rglob("libgemel.so*") if path.is_file() and not path.is_symlink())
    if not found:
        result.add(str(tree.build_dir), "libgemel.so is not there: build the target libgemel first")
    for path in found:
        result.looked_at += 1
        inspect_library(path, result)
    return result


def inspect_library(path, result):
    section = tool("readelf", "-dW", path)
    needed = re.findall(r"\(NEEDED\).*\[([^\]]+)\]", section)
    if "Dynamic section at" not in section:
        result.add(path.name, "readelf finds no dynamic section")
    for library in needed:
        if any(word in library for word in FORBIDDEN_LIBRARIES):
            result.add(path.name, f"needs {library}, which would live inside other people's Python processes")
    names = [line.split()[-1].split("@")[0] for line in tool("nm", "-D", "--defined-only", path).splitlines() if line.strip()]
    wrong = sorted(name for name in names if not name.startswith("gemel_"))
    if not any(name.startswith("gemel_") for name in names):
        result.add(path.name, "gives out no gemel_* name at all")
    if wrong:
        result.add(path.name, f"gives out {len(wrong)} names besides gemel_*, first {', '.join(wrong[:4])}: add a version script")


def tool(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""
