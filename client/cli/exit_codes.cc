// SPDX-License-Identifier: Apache-2.0
#include "client/cli/exit_codes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace gemel::cli {
namespace {

constexpr int kOtherFailure = 1;

struct Row {
  int code;
  std::string_view meaning;
  std::array<absl::StatusCode, 3> causes;  // kUnknown: none
};

constexpr absl::StatusCode kNone = absl::StatusCode::kUnknown;
constexpr std::array kRows = {
    Row{kExitDone, "done", {absl::StatusCode::kOk, kNone, kNone}},
    Row{kOtherFailure, "other failure", {kNone, kNone, kNone}},
    Row{kExitUsage, "bad usage", {absl::StatusCode::kInvalidArgument, kNone, kNone}},
    Row{3, "not found", {absl::StatusCode::kNotFound, kNone, kNone}},
    Row{4, "cannot be reached", {absl::StatusCode::kUnavailable, kNone, kNone}},
    Row{kExitRefused,
        "refused in this state, or a check of `gemel doctor` fails",
        {absl::StatusCode::kFailedPrecondition, absl::StatusCode::kAlreadyExists,
         absl::StatusCode::kPermissionDenied}},
    Row{6, "not enough memory or disk", {absl::StatusCode::kResourceExhausted, kNone, kNone}},
    Row{7, "data is damaged or lost", {absl::StatusCode::kDataLoss, kNone, kNone}},
    Row{8, "took too long", {absl::StatusCode::kDeadlineExceeded, kNone, kNone}},
};

}  // namespace

int ExitCodeOf(const absl::Status& status) {
  if (status.code() == kNone) {
    return kOtherFailure;
  }
  for (const Row& row : kRows) {
    if (std::find(row.causes.begin(), row.causes.end(), status.code()) != row.causes.end()) {
      return row.code;
    }
  }
  return kOtherFailure;
}

std::string ExitCodesText() {
  std::string text = "Exit codes:\n";
  for (const Row& row : kRows) {
    text += fmt::format("  {}  {}\n", row.code, row.meaning);
  }
  return text + "  `gemel run` ends with its command's own code; 128 + n when signal n ended it\n";
}

}  // namespace gemel::cli
