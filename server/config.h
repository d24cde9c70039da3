// SPDX-License-Identifier: Apache-2.0
//
// ServerConfig: the settings of gemel-server: defaults < gemel.toml ([server]) < flags. Part of the
// binary, not of gemel_server.
//
// Thread safety: one thread, at start.
// Errors: InvalidArgument names flag or key; PermissionDenied for an address beyond this machine;
// ResourceExhausted for more memory than the machine has.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace gemel {

// The default of persist_dir: follows from dir.
inline constexpr const char* kPersistDirDefault = "DIR/persist";
// As --keeper: the descriptor store of the service manager.
inline constexpr const char* kKeeperSystemd = "systemd";

struct ServerConfig {
  std::string dir;
  std::string name = "server-0";
  std::string domain;  // default: the name
  std::string placement = "127.0.0.1:7601";
  std::string socket;  // default: <dir>/server.sock
  std::string data_listen = "tcp://127.0.0.1:0";
  std::string memory = "1GiB";
  std::string slab_bytes;                        // default: DefaultSlabBytes() of the memory
  std::string persist_dir = kPersistDirDefault;  // empty: no persistent tier
  std::string keeper;                            // unix://PATH or "systemd"; empty: none
  std::string metrics;                           // empty: no endpoint
  std::string congestion = "cubic";
  std::string repair_bytes_per_second = "128MiB";
  std::string scrub_pass_s = "600";
  std::string scrub_disk_pass_s = "86400";
  std::string ready_file;
  std::string abort_at;  // of common/abort_at.h
  // From the texts above, by CheckServerConfig().
  uint64_t memory_size = 0;
  uint64_t slab_size = 0;
  uint64_t repair_rate = 0;
  uint32_t scrub_seconds = 0;
  uint32_t scrub_disk_seconds = 0;
};

// `finished`: --help or --version was asked for and answered.
absl::StatusOr<ServerConfig> ReadServerConfig(int argc, const char* const* argv, bool* finished);

// Fills in defaults and sizes, refuses what cannot be. `machine_bytes`: memory that this process
// may use.
absl::Status CheckServerConfig(ServerConfig* config, uint64_t machine_bytes);

// What the machine, or the container this runs in, lets the process use.
uint64_t MachineMemoryBytes();

}  // namespace gemel
