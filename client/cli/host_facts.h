// SPDX-License-Identifier: Apache-2.0
//
// What the kernel says of this machine: memory and who listens on a port.
//
// Thread safety: any thread; files of /proc and /sys are read anew at each call.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace gemel::cli {

inline constexpr uint64_t kNoLimit = UINT64_MAX;

struct MachineMemory {
  uint64_t physical_bytes = 0;
  uint64_t available_bytes = 0;           // the kernel's estimate, swap aside
  uint64_t group_limit_bytes = kNoLimit;  // of the strictest control group this process is in
  uint64_t group_used_bytes = 0;
  std::string group_file;  // that says so; empty: no limit

  // What processes here may use at most.
  uint64_t most_bytes() const {
    return physical_bytes < group_limit_bytes ? physical_bytes : group_limit_bytes;
  }
};

MachineMemory ReadMachineMemory();

struct PortHolder {
  pid_t pid = 0;        // 0: not visible to this user
  std::string command;  // its command line, cut
  uid_t user = 0;
};

// Who listens on TCP `port` of any address of this machine, if anybody does.
std::optional<PortHolder> HolderOfPort(uint16_t port);

// "process 4711 (python3 -m http.server 7601)", or "a process of user 33".
std::string Describe(const PortHolder& holder);

// The port of "127.0.0.1:7601"; 0 when it has none.
uint16_t PortOf(const std::string& address);

// Command line of a process with spaces, cut to what fits a line; empty when it is not visible.
std::string CommandOf(pid_t pid);

}  // namespace gemel::cli
