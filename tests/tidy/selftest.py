# SPDX-License-Identifier: Apache-2.0
"""Each check on a small good tree and on small bad ones: a check that cannot go red is a defect."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import banned
import clang_tidy
import compiled
import counts
import layout
import planted
from tree import Tree, strip_cpp

LICENCE = "// SPDX-License-Identifier: Apache-2.0\n"
GOOD = {
    "common/clock.h": LICENCE + "#pragma once\n#include <cstdint>\nint64_t Now();\n",
    "common/clock.cc": LICENCE + '#include "common/clock.h"\nint64_t Now() { return 1; }\n',
    "transport/frame.h": LICENCE + '#pragma once\n#include "common/clock.h"\nstatic_assert(sizeof(int) == 4);\n',
    "server/slab.h": LICENCE + '#pragma once\n#include "transport/frame.h"\n',
    "common/README.md": "Clock.\n",
    "transport/README.md": "Frames.\n",
    "server/README.md": "Slabs.\n",
}


class TreeTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="gemel-tidy-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def tree(self, files=None, build_dir=None):
        for name, text in {**GOOD, **(files or {})}.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Tree(self.folder, build_dir)

    def green(self, result):
        self.assertEqual(result.problems, [])
        self.assertGreater(result.looked_at, 0)

    def red(self, result, *words):
        self.assertTrue(result.problems, "the check stayed green")
        for word in words:
            self.assertIn(word, "\n".join(result.problems))

    def allow(self, text):
        path = self.folder / "allow.txt"
        path.write_text(text)
        return path


class Layout(TreeTest):
    def test_good_tree_is_green(self):
        tree = self.tree()
        for check in (layout.direction, layout.cycles, layout.sizes, layout.licence_lines, layout.readmes, layout.asserts):
            with self.subTest(check.__name__):
                self.green(check(tree))

    def test_an_include_against_the_arrows_is_red(self):
        for name, include in (("common/x.h", "transport/frame.h"), ("server/x.h", "client/y.h"), ("client/x.cc", "server/slab.h"),
                              ("placement/manager/x.cc", "server/slab.h"), ("server/x.cc", "placement/manager/m.h"),
                              ("transport/x.cc", "gemel/v1/placement.pb.h"), ("integrations/python/x.cc", "common/clock.h"),
                              ("placement/model/x.cc", "transport/frame.h"), ("placement/store/x.cc", "server/slab.h")):
            with self.subTest(name=name, include=include):
                extra = {"client/y.h": LICENCE, "placement/manager/m.h": LICENCE, name: f'{LICENCE}#include "{include}"\n'}
                self.red(layout.direction(self.tree(extra)), name + ":2", include)
                (self.folder / name).unlink()

    def test_the_manager_may_use_transport(self):
        self.green(layout.direction(self.tree({"placement/manager/x.cc": '#include "transport/frame.h"\n'})))

    def test_circles_are_red(self):
        circle = {"common/a.h": '#include "common/b.h"\n', "common/b.h": '#include "common/a.h"\n'}
        self.red(layout.cycles(self.tree(circle)), "common/a.h -> common/b.h -> common/a.h")

    def test_circles_between_parts_are_red(self):
        self.red(layout.cycles(self.tree({"common/up.h": '#include "transport/frame.h"\n'})), "circle")

    def test_long_files_functions_and_include_lists_are_red(self):
        body = "  int a;\n" * 71
        self.red(layout.sizes(self.tree({"common/f.cc": f"int F(int a)\n    noexcept {{\n{body}}}\n"})), "common/f.cc:1", "function of 74")
        self.red(layout.sizes(self.tree({"common/f.cc": "int a;\n" * 801})), "801 lines")
        self.red(layout.sizes(self.tree({"common/f.cc": "", "tests/t.cc": "int a;\n" * 1001})), "1001 lines")
        includes = "".join(f"#include <h{n}>\n" for n in range(21))
        self.red(layout.sizes(self.tree({"tests/t.cc": "", "common/i.h": includes})), "21 includes")
        python = "def f():\n" + "    pass\n" * 71
        self.red(layout.sizes(self.tree({"common/i.h": "", "bench/p.py": python})), "function of 72")

    def test_functions_are_found_among_scopes(self):
        code = strip_cpp('namespace a {\nclass B : public C<int(int)> {\n public:\n  B(int x)\n      : x_{x}, y_(0) {\n    F();\n  }\n'
                         '  int x_ = 3;\n};\ntemplate <class T>\nT Get() {\n  // }\n  if (true) { return "}"; }\n}\n}  // namespace\n')
        lengths = sorted(length for _, length in layout.cpp_functions(code))
        self.assertEqual(lengths[-1], 5)
        self.assertEqual(layout.cpp_functions("struct A {\n int a;\n\n\n};\nenum E { x };\n"), [])

    def test_a_source_without_a_licence_is_red(self):
        self.red(layout.licence_lines(self.tree({"common/n.cc": "int a;\n"})), "common/n.cc")

    def test_a_folder_without_a_readme_or_with_a_long_one_is_red(self):
        self.red(layout.readmes(self.tree({"bench/b.cc": LICENCE})), "bench")
        self.red(layout.readmes(self.tree({"bench/README.md": "line\n" * 31})), "31 lines")
        self.red(layout.readmes(self.tree({"bench/README.md": "", "proto/gemel/v1/p.proto": LICENCE})), "proto: no README.md")
        self.red(layout.readmes(self.tree({"proto/README.md": "", "client/include/gemel/g.h": LICENCE})), "client: no README.md")

    def test_few_asserts_are_red(self):
        self.red(layout.asserts(self.tree({"server/s.cc": "int a;\n" * 500})), "per 1000")


class Banned(TreeTest):
    BAD = {
        "clock": ["auto t = std::chrono::steady_clock::now();", "clock_gettime(CLOCK_MONOTONIC, &t);", "auto t = time(nullptr);"],
        "random": ["int r = rand();", "std::random_device d;", "std::mt19937 g;", "std::shuffle(a, b, g);"],
        "thread": ["std::thread t(F);", "std::jthread t;", "pthread_create(&t, 0, f, 0);"],
        "socket": ["int f = ::socket(AF_UNIX, 1, 0);", "if (connect(f, a, n) < 0) {}", "::bind(f, a, n);", "accept4(f, 0, 0, 0);"],
        "file": ["int f = open(path, 0);", "int f = ::open(path, 0);", "FILE* f = fopen(a, b);", "std::ofstream o;"],
        "process": ["if (fork() == 0) {}", "execv(a, b);", "kill(pid, 9);"],
        "env": ['auto e = getenv("A");'],
        "sleep": ["sleep(1);", "usleep(1);", "std::this_thread::sleep_for(x);"],
        "hash": ["std::hash<int> h;"],
        "copy": ["std::memcpy(a, b, n);", "memmove(a, b, n);", "std::copy(a, b, c);", "std::copy_n(a, n, c);"],
        "throw": ['throw 1;'],
        "unordered": ["std::unordered_map<int, std::vector<int>> map_; void F() { for (auto& [a, b] : map_) G(a); }",
                      "absl::flat_hash_set<int> s; auto i = s.begin();"],
    }

    def test_each_rule_goes_red_and_an_allowance_makes_it_green(self):
        for rule, lines in self.BAD.items():
            for line in lines:
                with self.subTest(rule=rule, line=line):
                    tree = self.tree({"server/x.cc": f"{LICENCE}{line}\n"})
                    self.red(banned.banned_calls(tree, self.allow("")), "server/x.cc:2", rule + ":")
                    self.green(banned.banned_calls(tree, self.allow(f"server/x: {rule} — a reason of some length\n")))

    def test_copies_are_counted_where_state_passes(self):
        line = f"{LICENCE}std::memcpy(a, b, n);\n"
        for name in ("server/x.cc", "client/core/x.cc", "transport/tcp/x.cc"):
            self.red(banned.banned_calls(self.tree({name: line}), self.allow("")), f"{name}:2", "copy:")

    def test_copies_elsewhere_need_not_be(self):
        line = f"{LICENCE}std::memcpy(a, b, n);\n"
        self.green(banned.banned_calls(self.tree({"common/x.cc": line, "client/cli/x.cc": line}), self.allow("")))

    def test_words_in_comments_strings_and_members_are_not_calls(self):
        text = LICENCE + ('// time(nullptr), rand(), throw\nconst char* a = "std::thread open(";\nauto b = disk.open(x);\n'
                          'auto c = std::bind(f, 1);\nstd::thread::id d;\nfile->fsync(1);\nbool open() const;\nbool o = open();\nstd::map<int, int> m;\n'
                          'void G() { for (auto& e : m) H(e); }\nauto q = R"(getenv("A"))";\nint n = 1\'000;\nauto t = runtime(0);\n')
        self.green(banned.banned_calls(self.tree({"server/x.cc": text}), self.allow("")))

    def test_members_declared_in_the_header_are_known_in_the_source(self):
        files = {"server/m.h": "std::unordered_map<int, int> all_;\n", "server/m.cc": "void F() { for (auto& e : all_) G(e); }\n"}
        self.red(banned.banned_calls(self.tree(files), self.allow("")), "server/m.cc:1", "all_")

    def test_an_allowance_that_nothing_needs_or_that_gives_no_reason_is_red(self):
        self.red(banned.banned_calls(self.tree(), self.allow("common/gone: clock — a reason of some length\n")), "remove it")
        self.red(banned.banned_calls(self.tree(), self.allow("common/: clock\n")), "not of the form")
        self.red(banned.banned_calls(self.tree(), self.allow("common/: clocks — a reason of some length\n")), "no rule clocks")

    def test_words_of_one_machine_hosts_and_unfinished_work_are_red(self):
        empty = self.allow("")
        for word in ("/wo" "rk/main", "/ro" "ot/x", "download.py" "torch.org"):
            with self.subTest(word):
                self.red(banned.repository_words(self.tree({"docs/a.md": f"see {word}\n"}), empty), "docs/a.md:1")
        self.tree({"docs/a.md": "see\n"})
        self.red(banned.repository_words(self.tree({"common/t.cc": "// TO" "DO: later\n"}), empty), "unfinished")
        self.green(banned.repository_words(self.tree({"common/t.cc": 'auto t = "/tmp/gemel-XXXXXX";\n'}), empty))


class Planted(TreeTest):
    BUG = ("Planted: the clock stands still.\nBreaks: time goes on.\nNeeds: nothing.\n\n"
           "diff --git a/common/clock.cc b/common/clock.cc\n--- a/common/clock.cc\n+++ b/common/clock.cc\n@@ -1,3 +1,3 @@\n"
           f" {LICENCE}"
           ' #include "common/clock.h"\n-int64_t Now() { return 1; }\n+int64_t Now() { return 0; }\n')
    NAME = "tests/sim/planted/clock-stands-still.patch"

    def planted(self, text, files=None):
        return planted.planted_bugs(self.tree({self.NAME: text, **(files or {})}))

    def test_a_bug_that_applies_is_green_in_a_checkout_and_outside_of_one(self):
        self.green(self.planted(self.BUG))
        subprocess.run(["git", "init", "-q", str(self.folder)], check=True)
        self.green(self.planted(self.BUG))

    def test_a_folder_inside_another_repository_is_read_as_a_tree_of_its_own(self):
        subprocess.run(["git", "init", "-q", str(self.folder)], check=True)
        self.folder /= "inside"
        self.green(self.planted(self.BUG))
        self.red(self.planted(self.BUG.replace("return 1", "return 2")), self.NAME, "does not apply")

    def test_a_bug_that_no_longer_applies_is_red(self):
        changed = {"common/clock.cc": GOOD["common/clock.cc"].replace("return 1", "return 2")}
        self.red(self.planted(self.BUG, changed), self.NAME, "does not apply")
        self.red(self.planted(self.BUG.split("diff")[0], {"common/clock.cc": GOOD["common/clock.cc"]}), "does not apply")

    def test_a_bug_that_is_in_the_tree_already_is_red(self):
        changed = {"common/clock.cc": GOOD["common/clock.cc"].replace("return 1", "return 0")}
        self.red(self.planted(self.BUG, changed), self.NAME, "does not apply")

    def test_a_bug_that_does_not_say_what_it_breaks_is_red(self):
        self.red(self.planted(self.BUG.replace("Breaks: time goes on.\n", "")), self.NAME + ":2", "Breaks:")
        self.red(self.planted(self.BUG.replace("Needs: nothing.", "Needs:")), self.NAME + ":3", "Needs:")

    def test_findings_of_a_bug_that_is_gone_or_without_a_finder_are_red(self):
        found = "tests/sim/planted/found.json"
        self.green(self.planted(self.BUG, {found: '{"clock-stands-still": {"by": "sim", "seed": 3}}'}))
        self.green(self.planted(self.BUG, {found: '{"clock-stands-still": {"by": "nothing", "what": "no clock"}}'}))
        self.red(self.planted(self.BUG, {found: '{"gone": {"by": "sim", "seed": 3}}'}), "gone")
        self.red(self.planted(self.BUG, {found: '{"clock-stands-still": {"by": "nothing"}}'}), "clock-stands-still")

    def test_a_bug_in_a_test_and_a_large_one_are_red(self):
        moved = self.BUG.replace("common/clock.cc", "tests/clock.cc")
        self.red(self.planted(moved, {"tests/clock.cc": GOOD["common/clock.cc"]}), "not production code")
        large = self.BUG.replace("-1,3 +1,3", "-1,3 +1,19") + "+int a;\n" * 16
        self.red(self.planted(large), "17 lines with `+`")


class Compiled(TreeTest):
    def test_a_header_that_needs_another_is_red(self):
        self.green(compiled.headers_alone(self.tree()))
        self.red(compiled.headers_alone(self.tree({"common/v.h": "#pragma once\nstd::vector<int> F();\n"})), "common/v.h")

    def test_a_kept_verdict_ends_with_a_change_of_what_is_included(self):
        build = self.folder / "build"
        build.mkdir()
        self.green(compiled.headers_alone(self.tree(build_dir=build)))
        self.assertIn("0 compiled", compiled.headers_alone(self.tree(build_dir=build)).note)
        broken = compiled.headers_alone(self.tree({"common/clock.h": "#pragma once\nint64_t Now(\n"}, build))
        self.red(broken, "server/slab.h", "transport/frame.h", "common/clock.h")

    def test_the_build_proves_a_header_only_with_an_object_that_is_up_to_date(self):
        build = self.folder / "build"
        build.mkdir()
        tree = self.tree(build_dir=build)
        entry = {"file": str(tree.root / "common/clock.cc"), "directory": str(build), "output": "clock.o", "command": "g++ -c"}
        (build / "compile_commands.json").write_text(json.dumps([entry]))
        self.assertEqual(compiled.proved_by_build(tree), set())
        (build / "clock.o").write_text("")
        self.assertEqual(compiled.proved_by_build(tree), {"common/clock.h"})
        os.utime(build / "clock.o", (1, 1))
        self.assertEqual(compiled.proved_by_build(tree), set())

    @unittest.skipUnless(shutil.which(compiled.FORMATTER), "clang-format-19 is not installed")
    def test_a_source_out_of_format_is_red(self):
        style = {".clang-format": "BasedOnStyle: Google\n"}
        self.green(compiled.format_of_sources(self.tree(style)))
        self.red(compiled.format_of_sources(self.tree({**style, "common/u.cc": "int   a ;\n"})), "common/u.cc")

    def library(self, source, *flags):
        build = self.folder / "build"
        build.mkdir(exist_ok=True)
        (build / "l.c").write_text(source)
        subprocess.run(["gcc", "-shared", "-fPIC", *flags, "-o", str(build / "libgemel.so"), str(build / "l.c")], check=True)
        return compiled.client_library(self.tree(build_dir=build))

    def test_a_client_library_with_other_names_or_needs_is_red(self):
        self.green(self.library("int gemel_open(void) { return 0; }\n"))
        self.red(self.library("int gemel_open(void) { return 0; }\nint other(void) { return 0; }\n"), "other")
        self.red(self.library("static int a;\n"), "no gemel_* name")
        stub = self.folder / "librocksdb.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(stub), "-Wl,-soname,librocksdb.so.7"], input=b"int r;\n", check=True)
        self.red(self.library("int gemel_open(void) { return 0; }\n", "-Wl,--no-as-needed", str(stub)), "needs librocksdb.so.7")

    def test_a_missing_client_library_is_red(self):
        build = self.folder / "build"
        build.mkdir()
        self.red(compiled.client_library(self.tree(build_dir=build)), "libgemel.so")


class Changed(TreeTest):
    def test_the_key_of_a_source_follows_everything_it_includes(self):
        command = "g++ -c server/s.cc"
        before = clang_tidy.key_of(self.tree({"server/s.cc": '#include "server/slab.h"\n'}), "server/s.cc", command)
        self.assertEqual(before, clang_tidy.key_of(self.tree(), "server/s.cc", command))
        after = clang_tidy.key_of(self.tree({"common/clock.h": "#pragma once\n"}), "server/s.cc", command)
        self.assertNotEqual(before, after)

    def test_a_changed_header_names_the_sources_that_include_it(self):
        tree = self.tree({"server/s.cc": '#include "server/slab.h"\n', "server/slab.cc": '#include "server/slab.h"\n'})
        sources = {"server/s.cc", "server/slab.cc", "common/clock.cc"}
        self.assertEqual(clang_tidy.sources_of(tree, {"server/slab.h"}, sources), ["server/slab.cc"])
        self.assertEqual(clang_tidy.sources_of(tree, {"server/s.cc", "docs/a.md"}, sources), ["server/s.cc"])


class Counting(TreeTest):
    def report(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    def ctest(self, status, gtest=None):
        (self.folder / "gtest").mkdir(exist_ok=True)
        target = self.folder / "gtest" / "unit_a.json"
        target.unlink(missing_ok=True)
        if gtest is not None:
            target.write_text(json.dumps(gtest))
        report = self.report("ctest.xml", f'<testsuite><testcase name="unit_a" status="{status}"/></testsuite>')
        return counts.from_ctest(report, self.folder / "gtest")

    def test_cases_of_googletest_are_counted(self):
        cases = [{"status": "RUN", "result": "COMPLETED"}, {"status": "RUN", "result": "SKIPPED"},
                 {"status": "RUN", "result": "COMPLETED", "failures": [{}]}]
        self.assertEqual(self.ctest("fail", {"failures": 1, "testsuites": [{"testsuite": cases}]}), counts.Counts(1, 1, 1))

    def test_a_program_that_crashes_counts_as_failed(self):
        self.assertEqual(self.ctest("fail"), counts.Counts(0, 1, 0))
        passed = {"failures": 0, "testsuites": [{"testsuite": [{"status": "RUN", "result": "COMPLETED"}]}]}
        self.assertEqual(self.ctest("fail", passed), counts.Counts(1, 1, 0))
        self.assertEqual(self.ctest("notrun"), counts.Counts(0, 1, 0))

    def test_a_program_without_googletest_is_one_case(self):
        self.assertEqual(self.ctest("run"), counts.Counts(1, 0, 0))

    def test_errors_of_pytest_are_failures(self):
        report = self.report("p.xml", '<testsuites><testsuite tests="5" failures="1" errors="1" skipped="1"/></testsuites>')
        self.assertEqual(counts.from_pytest(report), counts.Counts(2, 2, 1))

    def test_doubt_counts_as_failed(self):
        good, none = counts.Counts(3, 0, 0), counts.Counts(0, 0, 0)
        self.assertEqual(counts.judge(lambda: good, 0, 60)[0], good)
        self.assertEqual(counts.judge(lambda: good, 139, 60)[0].failed, 1)
        self.assertEqual(counts.judge(lambda: good, 124, 60)[0].failed, 1)
        self.assertEqual(counts.judge(lambda: none, 0, 60)[0].failed, 1)
        self.assertEqual(counts.judge(lambda: counts.from_pytest(self.folder / "absent.xml"), 0, 60)[0].failed, 1)


if __name__ == "__main__":
    unittest.main()
