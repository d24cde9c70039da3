// SPDX-License-Identifier: Apache-2.0
//
// gemel: the command of people and scripts. Exit codes: exit_codes.h.
#include "client/cli/command_line.h"

int main(int argc, char** argv) {
  gemel::cli::CommandLine program;
  return program.Run(argc, argv);
}
