// SPDX-License-Identifier: Apache-2.0
//
// RealDisk: the production Disk. One I/O thread does the work of common/disk_files.h in the order
// of the calls; results are posted back to the loop. At most kOperationsMax operations are under
// way, later callers wait for their turn.
//
// Thread safety: as Disk; made and destroyed on the loop's thread, or after the loop was shut down.
// Ownership: borrows `loop`, which outlives it; owns the directory's lock and the I/O thread.
// Stopping: the destructor finishes the operation that the I/O thread is in and joins the thread;
// operations that wait get Cancelled and were not begun. The loop may be shut down before.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/disk.h"
#include "common/disk_files.h"
#include "common/epoll_loop.h"

namespace gemel {

class RealDisk final : public Disk {
 public:
  static constexpr size_t kOperationsMax = 64;

  // Makes `directory` (0700) when it is missing and locks it. FailedPrecondition when another
  // process has it; the other errors of Disk when it cannot be made or read.
  static absl::StatusOr<std::unique_ptr<RealDisk>> Open(EpollLoop* loop, std::string directory);
  // The same with other system calls below, for tests.
  static absl::StatusOr<std::unique_ptr<RealDisk>> OpenWith(EpollLoop* loop, std::string directory,
                                                            std::unique_ptr<FileCalls> calls);
  ~RealDisk() override;

  Task<absl::StatusOr<std::string>> Read(std::string name) override;
  Task<absl::Status> WriteAtomically(std::string name, std::string content) override;
  Task<absl::Status> WriteInPlace(std::string name, std::string content) override;
  Task<absl::StatusOr<std::vector<std::string>>> List(std::string prefix) override;
  Task<absl::Status> Remove(std::string name) override;

 private:
  class Worker;

  RealDisk(EpollLoop* loop, std::unique_ptr<DiskFiles> files);

  // Shared: waiting coroutines and posted results may outlive the disk.
  const std::shared_ptr<Worker> worker_;
};

}  // namespace gemel
