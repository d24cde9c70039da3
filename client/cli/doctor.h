// SPDX-License-Identifier: Apache-2.0
//
// The checks of `gemel doctor`: pure functions from facts to findings. Facts are read in
// doctor_facts.h; a test hands in recorded ones.
//
// Thread safety: pure functions.
// Invariant: a finding that is not ok says in `mend` what to do, with the exact command where there
// is one; one that is ok has nothing to mend.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "client/cli/host_facts.h"

namespace gemel::cli {

enum class Level { kOk, kWarn, kFail };

const char* LevelText(Level level);  // "ok", "warn", "fail"

struct Finding {
  std::string check;
  Level level = Level::kOk;
  std::string found;
  std::string mend;
};

using Findings = std::vector<Finding>;

// "3.5 GiB", "64 MiB", "0 bytes".
std::string SizeText(uint64_t bytes);

// ---- memory (doctor_memory.cc)

struct MemoryFacts {
  MachineMemory machine;
  uint64_t memory_bytes = 0;  // asked for, of each server
  uint32_t servers = 0;
  uint64_t held_bytes = 0;               // by servers that run below --dir: theirs already
  uint64_t lock_limit_bytes = kNoLimit;  // RLIMIT_MEMLOCK
  uint64_t file_limit_bytes = kNoLimit;  // RLIMIT_FSIZE: bounds a memfd too
  uint64_t shm_bytes = 0;                // size of /dev/shm; 0: not mounted
  uint64_t shm_free_bytes = 0;
  bool memfd = true;  // a sealed memfd could be made, filled and mapped
  std::string memfd_error;
  uint64_t huge_pages = 0;  // reserved
  uint64_t huge_pages_free = 0;
  uint64_t huge_page_bytes = 0;
  std::string transparent;      // of "always madvise never"
  std::string transparent_shm;  // of "always within_size advise never deny force"
};

Findings CheckMemory(const MemoryFacts& facts);

// ---- kernel and processor (doctor_kernel.cc)

struct KernelFacts {
  std::string release;
  bool pidfd_open = true;
  bool populate = true;  // MADV_POPULATE_WRITE, since 5.14
  std::string digest_isa;
  bool digest_wide = true;  // AVX2 or wider
  uint64_t open_files_soft = 0;
  uint64_t open_files_hard = 0;
  uint64_t slabs = 0;  // of one server: each is a descriptor
  std::string clock_source;
  std::string clock_sources;  // that there are
  bool clock_synchronised = true;
};

Findings CheckKernel(const KernelFacts& facts);

// ---- network (doctor_network.cc)

struct PortFacts {
  uint16_t port = 0;
  std::string purpose;
  std::optional<PortHolder> holder;
};

struct NetworkFacts {
  std::vector<PortFacts> ports;
  std::string congestion;            // the system's default
  std::string congestion_available;  // with spaces
  bool cubic_settable = true;        // on a socket, by this user
  std::vector<std::string> rdma;     // what each RDMA port is and can
  std::string rdma_error;            // why there is none
};

Findings CheckNetwork(const NetworkFacts& facts);

// ---- disk (doctor_disk.cc)

struct DiskFacts {
  std::string dir;
  std::string looked_at;  // the folder, or the nearest one above it that exists
  bool writable = true;
  std::string write_error;
  std::string file_system;  // "ext4"; a hexadecimal number for one without a name here
  bool in_memory = false;   // tmpfs, ramfs
  bool over_network = false;
  uint64_t bytes = 0;
  uint64_t free_bytes = 0;
  double fsync_ms = 0;       // median of a few small files
  uint64_t state_bytes = 0;  // that could be persisted: memory of all servers
};

Findings CheckDisk(const DiskFacts& facts);

// ---- versions (doctor_versions.cc)

struct PartVersion {
  std::string part;     // "gemel-server", "Python package"
  std::string version;  // empty: not there, or it did not say
  std::string where;
  bool replaced = false;  // a process runs whose program file is no longer that one
};

struct VersionFacts {
  std::string own;
  std::vector<PartVersion> programs;   // beside this one
  std::vector<PartVersion> processes;  // that run below --dir
  PartVersion package;                 // as python3 of PATH imports it
  PartVersion native;                  // the library inside it
  std::string package_folder;          // that would serve: "export PYTHONPATH=<it>"
};

Findings CheckVersions(const VersionFacts& facts);

// ---- sockets and the cluster (doctor_cluster.cc)

struct SocketFacts {
  std::string address;
  bool exists = false;
  bool is_socket = false;
  uid_t owner = 0;
  std::string owner_name;
  uint32_t mode = 0;
  bool answers = false;
  std::string error;  // of the attempt to connect
  bool denied = false;
};

struct ClusterFacts {
  std::string dir;
  bool known = false;   // there is a cluster.json
  std::string problem;  // that it cannot be read
  bool stopped = false;
  std::vector<SocketFacts> sockets;
  uid_t own_user = 0;
  std::string placement;
  bool placement_answers = false;
  std::string placement_error;
  std::vector<std::pair<std::string, std::string>> servers;  // name, state
  std::vector<std::string> warnings;
};

Findings CheckCluster(const ClusterFacts& facts);

}  // namespace gemel::cli
