// SPDX-License-Identifier: Apache-2.0
//
// Disk: the small durable files of one process (identity, commit records), below one directory.
// Names are relative, may hold '/', never "..".
//
// Implementations: RealDisk (common/real_disk.h), SimDisk (common/sim_disk.h); both run DiskFiles
// (common/disk_files.h), over the kernel and over a simulated file system; one conformance test.
//
// Thread safety: one loop. Work runs off the loop, one operation after the other in the order in
// which they were begun; results come back on it.
// Errors: InvalidArgument for a name or content that no disk takes; NotFound; ResourceExhausted
// when the disk is full; DataLoss when a file fails its checksum; Unavailable for other I/O errors;
// Cancelled when the disk goes away first. After a failed fsync the file is abandoned, never
// retried.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

#include "common/bytes.h"
#include "common/task.h"

namespace gemel {

// Limits of what a Disk takes.
constexpr size_t kFileNameBytesMax = 1024;
constexpr size_t kFileNamePartBytesMax = 200;
constexpr uint64_t kFileBytesMax = 64 * kMiB;

// How long the content of a file may become that WriteInPlace() makes for `bytes` of it.
constexpr uint64_t RoomFor(uint64_t bytes) { return std::max(2 * bytes, 16 * kKiB); }

class Disk {
 public:
  virtual ~Disk() = default;
  virtual Task<absl::StatusOr<std::string>> Read(std::string name) = 0;
  // All or nothing, durable when it returns: temporary name, fsync, rename, fsync of the directory.
  // After an error the file holds its old or its new content, whole.
  virtual Task<absl::Status> WriteAtomically(std::string name, std::string content) = 0;
  // The same promise, for what must be written on a full disk too: the file keeps two copies of its
  // content in room taken when it was made, and takes more only when the content outgrows that.
  virtual Task<absl::Status> WriteInPlace(std::string name, std::string content) = 0;
  // Full names of the files at any depth below directory `prefix` ("" is the top), sorted; empty
  // when there is no such directory.
  virtual Task<absl::StatusOr<std::vector<std::string>>> List(std::string prefix) = 0;
  // OK when it was not there. Durable when it returns.
  virtual Task<absl::Status> Remove(std::string name) = 0;
};

// InvalidArgument, naming the reason, unless `name` is a relative path whose parts are not empty,
// do not begin with '.' and hold no zero byte, within the limits above. "LOCK" is the directory's
// own.
absl::Status CheckFileName(std::string_view name);

// The same for the prefix of List(), where "" is allowed.
absl::Status CheckFilePrefix(std::string_view prefix);

// InvalidArgument when `name` is no file name or `bytes` is over kFileBytesMax.
absl::Status CheckFileWrite(std::string_view name, uint64_t bytes);

}  // namespace gemel
