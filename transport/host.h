// SPDX-License-Identifier: Apache-2.0
//
// Host: what a process may ask of the machine it runs on: memory that can be shared with another
// process of the same host, and knowledge of another process's death. Production: memfd and pidfd
// (transport/local/real_host.h); simulation: transport/sim/sim_host.h.
//
// Thread safety: one loop, except Mapping::bytes() contents and Mapping::Protect(), any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "common/bytes.h"

namespace gemel {

// Something that can be sent over a local connection: shared memory, or a process.
class SharedHandle {
 public:
  virtual ~SharedHandle() = default;
  // The descriptor to send with SCM_RIGHTS; -1 in the simulator.
  virtual int descriptor() const = 0;
};

enum class Access { kNone, kRead, kReadWrite };

// Shared memory mapped into this process. Unmapped by the destructor. Never inherited by fork:
// mapped PROT_NONE, MADV_DONTFORK, then protected as asked (amendment 5).
class Mapping {
 public:
  virtual ~Mapping() = default;
  virtual MutableByteSpan bytes() const = 0;
  virtual Access access() const = 0;
  // mprotect of the whole mapping: one system call, page tables stay warm (amendment 6).
  virtual absl::Status Protect(Access access) = 0;
};

// Tells of one process's death, however it died. Stops when destroyed.
class ExitWatch {
 public:
  virtual ~ExitWatch() = default;
};

class Host {
 public:
  virtual ~Host() = default;
  // Zeroed, size fixed for ever (sealed against resizing). ResourceExhausted names the limit to
  // raise.
  virtual absl::StatusOr<std::shared_ptr<SharedHandle>> CreateMemory(std::string name,
                                                                     uint64_t bytes) = 0;
  // `populate` touches every page now: first touch costs 10 times a copy (DESIGN section 7).
  virtual absl::StatusOr<std::unique_ptr<Mapping>> Map(const std::shared_ptr<SharedHandle>& memory,
                                                       uint64_t bytes, Access access,
                                                       bool populate) = 0;
  // A handle of this process, to be sent at hello.
  virtual absl::StatusOr<std::shared_ptr<SharedHandle>> OwnProcess() = 0;
  // Calls `exited` once on the loop when that process is dead, also when it was dead already.
  virtual absl::StatusOr<std::unique_ptr<ExitWatch>> WatchExit(
      const std::shared_ptr<SharedHandle>& process, std::function<void()> exited) = 0;
  // The pid of that process, 0 when it is dead. Two handles with one pid other than 0 are of one
  // process. InvalidArgument for a handle of another kind.
  virtual absl::StatusOr<uint64_t> LivingPid(const std::shared_ptr<SharedHandle>& process) = 0;
};

}  // namespace gemel
