// SPDX-License-Identifier: Apache-2.0
//
// DiskFiles: the blocking file operations under RealDisk and SimDisk, on framed files
// (common/file_frame.h), over the system calls that it is given (common/file_calls.h).
// Temporary files are named "." + name + ".tmp" beside the file; those that a crash left behind are
// removed by Open(). "LOCK" is held with flock(), so two processes never share a directory.
//
// Thread safety: one thread at a time.
// Ownership: owns the lock until destroyed.
// Invariants:
//   (1) a name holds its old or its new content, whole, at every moment and after every crash;
//   (2) a file whose fsync failed is never synced again (its pages may be gone): it is unlinked, or
//       replaced by a new one before anything else is written to it.
// Errors: as common/disk.h.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

#include "common/file_calls.h"
#include "common/file_frame.h"

namespace gemel {

class DiskFiles {
 public:
  // Makes `directory` (0700) when it is missing. FailedPrecondition when another process holds it.
  static absl::StatusOr<std::unique_ptr<DiskFiles>> Open(std::string directory,
                                                         std::unique_ptr<FileCalls> calls);
  ~DiskFiles();
  DiskFiles(const DiskFiles&) = delete;
  DiskFiles& operator=(const DiskFiles&) = delete;

  absl::StatusOr<std::string> Read(const std::string& name);
  absl::Status WriteAtomically(const std::string& name, std::string_view content);
  absl::Status WriteInPlace(const std::string& name, std::string_view content);
  absl::StatusOr<std::vector<std::string>> List(const std::string& prefix);
  absl::Status Remove(const std::string& name);

 private:
  DiskFiles(std::string directory, std::unique_ptr<FileCalls> calls);

  std::string PathOf(std::string_view name) const;
  absl::Status Lock();
  absl::Status RemoveTemporaries();
  absl::Status EnsureDirectory(const std::string& path);
  absl::Status SyncDirectory(const std::string& path);
  absl::StatusOr<std::string> ReadWhole(const std::string& path) const;
  absl::Status WriteSynced(int fd, std::string_view bytes, std::string_view path);
  absl::Status WriteNew(const std::string& path, std::string_view bytes);
  absl::Status Replace(const std::string& path, std::string_view bytes);
  absl::Status Overwrite(const std::string& path, const FilePair& pair, std::string_view copy);
  absl::Status ErrorOf(int error, std::string_view what, std::string_view path) const;

  const std::string directory_;
  const std::unique_ptr<FileCalls> calls_;
  int lock_fd_ = -1;
  std::set<std::string> durable_directories_;  // whose entry in their parent we have synced
  std::set<std::string> doubtful_;             // names whose last write failed, or is not done
};

}  // namespace gemel
