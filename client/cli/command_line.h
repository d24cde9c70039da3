// SPDX-License-Identifier: Apache-2.0
//
// CommandLine: every command with its flags, help and examples; what was typed becomes a runner and
// its Flags. A wrong command line is answered in one line that names what was not understood and
// the nearest thing there is.
//
// Thread safety: one thread.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "client/cli/archiving.h"
#include "client/cli/completion.h"
#include "client/cli/flags.h"

namespace gemel::cli {

class CommandLine {
 public:
  using Runner = std::function<absl::StatusOr<int>(const Flags&)>;

  CommandLine();

  // The program's exit code. Errors are on standard error then.
  int Run(int argc, char** argv);

  // For completion: the commands as they are declared here.
  std::vector<CommandShape> Shapes() const;

 private:
  CLI::App* Command(CLI::App* parent, const char* name, const char* help, Runner run);
  CLI::App* Query(const char* name, const char* help, Runner run);
  void AddSizes(CLI::App* command);
  void AddCluster();
  void AddRun();
  void AddQueries();
  void AddStorage();
  void AddArchiving();
  void AddHost();
  void AddCompletion();

  int UsageError(const std::string& what, const std::vector<std::string>& arguments) const;
  std::string WhatIsWrong(const std::string& what, const CLI::App* command,
                          const std::vector<std::string>& arguments) const;

  CLI::App app_;
  Flags flags_;
  Archiving archiving_;
  Runner chosen_;
};

}  // namespace gemel::cli
