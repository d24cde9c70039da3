// SPDX-License-Identifier: Apache-2.0
//
// Processes and files of this machine, as the CLI needs them: the one file of the CLI that starts
// and ends processes and touches files.
//
// A process is named by (pid, start time): a recycled pid is never taken for ours, so `gemel down`
// cannot end a stranger.
//
// Thread safety: one thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/time.h"

namespace gemel::cli {

struct ProcessName {
  pid_t pid = 0;
  uint64_t start_ticks = 0;  // field 22 of /proc/<pid>/stat: since boot
};

// Starts `command` detached (own session, no standard input, output appended to `log_path`).
absl::StatusOr<ProcessName> StartDetached(const std::vector<std::string>& command,
                                          const std::string& log_path);

bool IsAlive(const ProcessName& process);

// SIGTERM. True when it was alive before.
bool AskToStop(const ProcessName& process);

// SIGKILL, when it is alive.
void Kill(const ProcessName& process);

// Where the shell would find `program`, or empty.
std::string FindProgram(const std::string& program);

// What `command` writes to standard output, cut at 64 KiB; its standard error goes nowhere.
// Unavailable when it cannot be run or ends badly, DeadlineExceeded (and it is ended) after
// `within`.
absl::StatusOr<std::string> RunCaptured(const std::vector<std::string>& command, Duration within);

// Runs `command` in the foreground with `environment` added; its exit code (128 + signal when it
// was killed). SIGINT and SIGTERM are passed on, but for a SIGINT of the terminal, which the whole
// foreground group has got already.
absl::StatusOr<int> RunForeground(
    const std::vector<std::string>& command,
    const std::vector<std::pair<std::string, std::string>>& environment);

// Value of an environment variable, empty when unset. The only reader of the environment in the
// CLI.
std::string Environment(const char* name);

// The user whose rights this process has.
uid_t OwnUser();

// PermissionDenied, naming the owner, for a file of another user; root owns everything. OK for one
// that is not there.
absl::Status CheckOwner(const std::string& path);

// The folder this program lies in: the daemons lie beside it.
absl::StatusOr<std::string> ProgramFolder();

absl::StatusOr<std::string> ReadTextFile(const std::string& path);
// Temporary name, then rename.
absl::Status WriteTextFile(const std::string& path, const std::string& text);
absl::Status MakeFolder(const std::string& path);
absl::Status MoveAside(const std::string& from, const std::string& to);
void RemoveTree(const std::string& path);
bool Exists(const std::string& path);
// The last `lines` of a log, for an error message.
std::string TailOf(const std::string& path, size_t lines);
// Sleeps for a poll of another process's state.
void Pause(Duration duration);
TimePoint Now();

}  // namespace gemel::cli
