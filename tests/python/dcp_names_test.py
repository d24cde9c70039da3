# SPDX-License-Identifier: Apache-2.0
"""Paths and URLs as names: legal, injective, and back."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from gemel import names
from gemel.errors import InvalidArgument


def test_any_text_becomes_a_legal_name_and_comes_back():
    rng = random.Random(4)
    seen = {}
    for _ in range(5000):
        text = "".join(rng.choice("ab/:%@ é\n~.\x00\udcff3A") for _ in range(rng.randrange(1, 12)))
        name = names.escape(text)
        assert name.isascii() and name.isprintable() and not set("/@ ") & set(name)
        assert seen.setdefault(name, text) == text
        assert names.unescape(name) == text


@pytest.mark.parametrize("name", ["", "%", "%4", "%zz", "%61", "a b", "a/b", "%3a", "é", "a%"])
def test_a_name_that_no_path_has_is_refused(name):
    with pytest.raises(InvalidArgument):
        names.unescape(name)


@pytest.mark.parametrize("text", ["", "x" * 129, "/" * 129, "é" * 22])
def test_what_is_empty_or_too_long_is_refused_with_its_size(text):
    with pytest.raises(InvalidArgument, match="128"):
        names.escape(text)


@pytest.mark.parametrize("given, want", [
    (("gpt", 7), ("gpt", "7")), (("gpt", "best"), ("gpt", "best")), (("gpt", None), ("gpt", None)),
    (("gemel://gpt/7", None), ("gpt", "7")), (("gemel://a/b/7/", None), ("a:b", "7")),
    (("/tmp/ckpt/step-7", None), (":tmp:ckpt", "step-7")), ((Path("runs/x/7"), None), ("runs:x", "7")),
    (("a//b/./c", None), ("a:b", "c")), ((":tmp:ckpt", "step-7"), (":tmp:ckpt", "step-7")),
    (("/tmp/ckpt", 7), (":tmp:ckpt", "7"))])
def test_every_form_names_a_job_and_a_snapshot(given, want):
    assert names.given(*given) == want


@pytest.mark.parametrize("given", [("s3://bucket/7", None), ("gemel://", None), ("/", None), ("a/..", None),
                                   ("a b", 7), ("gpt", ""), ("x" * 200, 7)])
def test_what_names_nothing_says_what_would(given):
    with pytest.raises(InvalidArgument):
        names.given(*given)


def test_ids_of_other_stores_are_not_ours():
    assert [names.is_ours(i) for i in ("gemel://a/b", "a/b", "/a/b", Path("x"), "C:/x")] == [True] * 5
    assert [names.is_ours(i) for i in ("s3://a/b", "file:///a", "simplecache::s3://a")] == [False] * 3


def test_the_file_protocol_needs_no_torch():
    code = "import sys, gemel.fsspec; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={"PYTHONPATH": ":".join(sys.path)})
