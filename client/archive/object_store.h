// SPDX-License-Identifier: Apache-2.0
//
// ObjectStore: where exports and archives lie: whole immutable files under keys ("a/b/c"). A key is
// seen with its old content or its new content, never with a part.
//
// Implementations: DirectoryStore (a file system), S3Store (a bucket).
//
// Thread safety: one thread. Memory: bounded, whatever the sizes.
// Errors: NotFound for a key that is not there; PermissionDenied; ResourceExhausted when the target
// is full; Unavailable when it cannot be reached within the store's patience; DataLoss when what
// arrived is not what was sent; Cancelled when the program was asked to end. Each message names the
// place and the way out.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

#include "common/bytes.h"

namespace gemel::archive {

struct ObjectInfo {
  std::string key;
  uint64_t bytes = 0;
};

// One file that is being written. Dropped before Finish(), it leaves nothing behind that is seen.
class ObjectWriter {
 public:
  virtual ~ObjectWriter() = default;
  // Appends. `data` may change as soon as this returns.
  virtual absl::Status Write(ByteSpan data) = 0;
  // The file is there, whole and durable, when this succeeds. REQUIRES: exactly the bytes that
  // were announced have been written.
  virtual absl::Status Finish() = 0;
};

class ObjectStore {
 public:
  virtual ~ObjectStore() = default;
  // A file of exactly `bytes`.
  virtual absl::StatusOr<std::unique_ptr<ObjectWriter>> Create(const std::string& key,
                                                               uint64_t bytes) = 0;
  // Bytes [offset, offset + into.size()). OutOfRange never: DataLoss when the file is shorter.
  virtual absl::Status Read(const std::string& key, uint64_t offset, MutableByteSpan into) = 0;
  virtual absl::StatusOr<uint64_t> Size(const std::string& key) = 0;
  // Keys that begin with `prefix`, at any depth, by rising key; without what is still being
  // written.
  virtual absl::StatusOr<std::vector<ObjectInfo>> List(const std::string& prefix) = 0;
  // OK when it was not there.
  virtual absl::Status Remove(const std::string& key) = 0;
  // Gives up what dead writers left unfinished under `prefix`, at any depth, with directories that
  // hold nothing. REQUIRES: no writer there is alive.
  virtual absl::Status RemoveUnfinished(const std::string& prefix) = 0;
  // The place as people write it: "/backup/gpt/x", "s3://bucket/gpt/x".
  virtual std::string Where(const std::string& key) const = 0;
};

// A small file in one call.
absl::Status PutObject(ObjectStore* store, const std::string& key, std::string_view content);

// A small file in one call. InvalidArgument when it has more than `bytes_max`.
absl::StatusOr<std::string> GetObject(ObjectStore* store, const std::string& key,
                                      uint64_t bytes_max);

}  // namespace gemel::archive
