# SPDX-License-Identifier: Apache-2.0
"""The files of the repository as the checks see them, and C++ text without comments and literals."""

import dataclasses
import functools
import os
import pathlib
import re
import subprocess

CPP = (".h", ".cc", ".c")
SOURCES = CPP + (".py", ".sh", ".proto")
FIRST_PARTY = ("common", "proto", "transport", "placement", "server", "client", "integrations", "tests", "bench")
SKIPPED_FOLDERS = {".git", "build", ".venv", "__pycache__", "quickstart-out", "node_modules"}


@dataclasses.dataclass
class Result:
    """What a check found: how many things it looked at and a sentence for each problem."""
    looked_at: int = 0
    problems: list = dataclasses.field(default_factory=list)
    note: str = ""

    def add(self, place, sentence):
        self.problems.append(f"{place}: {sentence}")


_TOKEN = re.compile(
    r'R"(?P<tag>[^()\\ ]{0,16})\((?:.|\n)*?\)(?P=tag)"'  # raw string
    r'|//(?:[^\n\\]|\\.|\\\n)*'
    r'|/\*(?:.|\n)*?\*/'
    r'|"(?:[^"\\\n]|\\.|\\\n)*"'
    r"|(?<![0-9a-zA-Z_])'(?:[^'\\\n]|\\.)+'")


def _blank(match):
    text = match.group(0)
    keep = '""' if text[0] in '"R' else "' '" if text[0] == "'" else " "
    return keep + "\n" * text.count("\n")


def strip_cpp(text):
    """Comments become a space, literals become empty ones; line numbers stay."""
    return _TOKEN.sub(_blank, text)


class Tree:
    """A repository at `root`. Paths are relative, with forward slashes, sorted."""

    def __init__(self, root, build_dir=None):
        self.root = pathlib.Path(root).resolve()
        self.build_dir = pathlib.Path(build_dir).resolve() if build_dir else None

    @functools.cached_property
    def files(self):
        listed = subprocess.run(["git", "-C", str(self.root), "ls-files", "-z", "--cached", "--others",
                                 "--exclude-standard"], capture_output=True, check=False)
        if listed.returncode == 0 and (self.root / ".git").exists():
            names = {name for name in listed.stdout.decode().split("\0") if name}
        else:
            names = set(self._walk())
        return sorted(name for name in names if (self.root / name).is_file())

    def _walk(self):
        for folder, folders, names in os.walk(self.root):
            folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
            for name in names:
                yield (pathlib.Path(folder) / name).relative_to(self.root).as_posix()

    def having(self, *suffixes, under=FIRST_PARTY):
        return [name for name in self.files
                if name.endswith(suffixes) and (under is None or name.split("/")[0] in under)]

    @functools.lru_cache(maxsize=None)
    def text(self, name):
        return (self.root / name).read_text(encoding="utf-8", errors="replace")

    @functools.lru_cache(maxsize=None)
    def code(self, name):
        return strip_cpp(self.text(name))

    @functools.lru_cache(maxsize=None)
    def includes(self, name):
        """(line, path as written) of each include directive."""
        found = []
        for number, line in enumerate(self.text(name).splitlines(), 1):
            match = re.match(r'\s*#\s*include\s*[<"]([^>"]+)[>"]', line)
            if match:
                found.append((number, match.group(1)))
        return found

    @functools.lru_cache(maxsize=None)
    def resolve(self, name, include):
        """The file of this repository that an include names, or None; client/include is a root of its own."""
        for candidate in (include, f"client/include/{include}", str(pathlib.PurePosixPath(name).parent / include)):
            if (self.root / candidate).is_file():
                return candidate
        return None
