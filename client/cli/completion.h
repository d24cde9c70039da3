// SPDX-License-Identifier: Apache-2.0
//
// Completion scripts, made from the command line's own description: no command and no flag can be
// missing in them.
//
// Thread safety: pure functions.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace gemel::cli {

struct FlagShape {
  enum class Value { kNone, kText, kFolder, kChoice };
  std::vector<std::string> names;  // "-o", "--output"
  std::string help;
  Value value = Value::kNone;
  std::vector<std::string> choices;
};

struct CommandShape {
  std::string name;  // "up", "placement recover"
  std::string help;
  std::vector<FlagShape> flags;
  bool takes_job = false;
  bool takes_command = false;        // everything after -- belongs to another program
  std::vector<std::string> choices;  // of its argument
};

// InvalidArgument, naming the shells there are, for another one.
absl::StatusOr<std::string> CompletionScript(const std::string& shell,
                                             const std::vector<CommandShape>& commands);

}  // namespace gemel::cli
