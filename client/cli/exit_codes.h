// SPDX-License-Identifier: Apache-2.0
//
// The exit codes of `gemel`: one table, from which --help, the program and its tests read.
// docs/OPERATIONS.md repeats it; tests/e2e/cli_test.py compares the two.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace gemel::cli {

inline constexpr int kExitDone = 0;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitRefused = 5;
inline constexpr int kExitNoProgram = 127;  // as shells say it: the command of `gemel run`

// What the program ends with for `status`; 1 for a code that has no row.
int ExitCodeOf(const absl::Status& status);

// The table for people: one line a code.
std::string ExitCodesText();

}  // namespace gemel::cli
