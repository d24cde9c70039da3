# SPDX-License-Identifier: Apache-2.0
"""Overlay: the programs of a release build with one planted bug in them, without a second build tree.

The patched files lie in a folder of their own. What depends on them is compiled anew from there, with the commands
of the build, and linked before the libraries of the build. The tree itself is never changed.
"""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess


class BenchError(Exception):
    """Names what went wrong and the way out."""


def checked(command, folder, what):
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        said = "\n".join((ran.stdout + ran.stderr).strip().splitlines()[-12:])
        raise BenchError(f"{what} ended with {ran.returncode}:\n{said}")
    return ran.stdout


@dataclasses.dataclass(frozen=True)
class Compilation:
    directory: pathlib.Path
    source: pathlib.Path
    command: str
    output: str  # relative to `directory`, as in the link commands


class Build:
    """A configured and built tree at `folder` of the sources at `root`."""

    def __init__(self, root, folder):
        self.root, self.folder = root.resolve(), folder.resolve()
        if not (self.folder / "compile_commands.json").is_file():
            raise BenchError(f"{folder} is not a configured build: run `cmake --preset release` and build gemel-sim first")
        self.compilations = [self._compilation(entry)
                             for entry in json.loads((self.folder / "compile_commands.json").read_text())]
        self._dependents = None

    def make(self, programs):
        checked(["ninja", "-C", str(self.folder), *programs], self.root, f"the build of {' '.join(programs)}")
        self._dependents = None

    def of_files(self, names):
        """The compilations that a change of these files of the repository reaches."""
        if self._dependents is None:
            self._dependents = self._read_dependencies()
        wanted = set()
        for name in names:
            path = self.root / name
            wanted |= self._dependents.get(path, set())
            wanted |= {entry.output for entry in self.compilations if entry.source == path}
        return [entry for entry in self.compilations if entry.output in wanted]

    def link_command(self, program):
        lines = checked(["ninja", "-C", str(self.folder), "-t", "commands", "-s", f"bin/{program}"], self.root,
                        f"asking for the link command of {program}").strip().splitlines()
        match = re.fullmatch(r": && (.*) && :", lines[-1]) if lines else None
        if not match:
            raise BenchError(f"the link command of {program} is not of the form that CMake writes: {lines[-1:]}")
        return shlex.split(match.group(1))

    def test_programs(self, libraries):
        """Unit and golden tests that are built and that link one of these libraries (`server/libgemel_server.a`)."""
        rules = (self.folder / "build.ninja").read_text()
        found = []
        for match in re.finditer(r"^build bin/(\w+_test): (.*(?:\$\n.*)*)", rules, re.M):
            if any(library in match.group(2) for library in libraries) and (self.folder / "bin" / match.group(1)).is_file():
                found.append(match.group(1))
        return found

    def _compilation(self, entry):
        output = re.search(r" -o (\S+) -c ", entry["command"])
        if not output:
            raise BenchError(f"the command of {entry['file']} has no `-o OUTPUT -c`: make the build with CMake and Ninja")
        return Compilation(pathlib.Path(entry["directory"]), pathlib.Path(entry["file"]), entry["command"],
                           output.group(1))

    def _read_dependencies(self):
        """File of the repository -> outputs of the objects that include it, as the compiler told Ninja."""
        dependents, output = {}, None
        for line in checked(["ninja", "-C", str(self.folder), "-t", "deps"], self.root, "ninja -t deps").splitlines():
            if line.startswith("    "):
                path = pathlib.Path(os.path.normpath(self.folder / line.strip()))
                if path.is_relative_to(self.root):
                    dependents.setdefault(path, set()).add(output)
            elif ": #deps" in line:
                output = line.split(": #deps")[0]
        return dependents


def files_of(patch):
    return [match.group(1) for line in patch.read_text().splitlines() if (match := re.match(r"\+\+\+ b/(\S+)", line))]


class Overlay:
    """The files of one patch, applied in `folder`, and the objects and programs made of them."""

    def __init__(self, build, patch, folder):
        self.build, self.folder = build, folder
        self.objects = {}  # output in the build -> object here
        shutil.rmtree(folder, ignore_errors=True)
        self.names = files_of(patch)
        for name in self.names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(build.root / name, folder / name)
        settings = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        settings["GIT_CEILING_DIRECTORIES"] = str(folder.resolve().parent)
        applied = subprocess.run(["git", "apply", str(patch.resolve())], cwd=folder, env=settings, capture_output=True,
                                 text=True, check=False)
        if applied.returncode != 0:
            raise BenchError(f"{patch.name} does not apply: {applied.stderr.strip()}; make it anew, with the same bug")

    def compile(self, within):
        """Compiles what the patch reaches of the outputs in `within` (a predicate over outputs)."""
        for entry in self.build.of_files(self.names):
            if entry.output in self.objects or not within(entry.output):
                continue
            made = self.folder / "objects" / f"{len(self.objects)}-{pathlib.Path(entry.output).name}"
            made.parent.mkdir(exist_ok=True)
            self._compile(entry, made)
            self.objects[entry.output] = made

    def _compile(self, entry, made):
        words = shlex.split(entry.command)
        source = str(entry.source)
        relative = entry.source.relative_to(self.build.root) if entry.source.is_relative_to(self.build.root) else None
        if relative is not None and str(relative) in self.names:
            source = str(self.folder / relative)
        words[words.index("-c") + 1] = source
        words[words.index("-o") + 1] = str(made)
        words.insert(1, f"-I{self.folder}")
        checked(words, entry.directory, f"compiling {relative or source} with the bug in it")

    def link(self, program):
        """The program with the bug, or None when nothing of it depends on the patched files."""
        command = self.build.link_command(program)
        self.compile(lambda output: output in command or _library_of(output) in _names_of(command))
        words, added, replaced = [], [], 0
        for output, made in self.objects.items():
            if output in command:
                replaced += 1
            elif _library_of(output) in _names_of(command):
                added.append(str(made))
        if not added and not replaced:
            return None
        made = self.folder / "bin" / program
        made.parent.mkdir(exist_ok=True)
        for index, word in enumerate(command):
            if word.endswith(".a") and added:
                words, added = words + added, []
            if index > 0 and command[index - 1] == "-o":
                word = str(made)
            words.append(str(self.objects.get(word, word)))
        checked(words, self.build.folder, f"linking {program} with the bug in it")
        return made

    def libraries(self):
        """File names of the libraries that the patch changes."""
        return {library for entry in self.build.of_files(self.names) if (library := _library_of(entry.output))}


def _library_of(output):
    """`server/CMakeFiles/gemel_server.dir/tier.cc.o` -> `libgemel_server.a`; of a program: a name that no link has."""
    match = re.search(r"CMakeFiles/([^/]+)\.dir/", output)
    return f"lib{match.group(1)}.a" if match else ""


def _names_of(command):
    return {word.rsplit("/", 1)[-1] for word in command}
