// SPDX-License-Identifier: Apache-2.0
//
// ShardFiles: the sorted files of one shard before they are part of the database: written under
// temporary names, fsynced, the folder fsynced, renamed, the folder fsynced.
//
// Memory: one chunk is copied once, into the file writer's block; what was written goes to the disk
// every kPersistSyncBytes, so that no fsync at the end holds the disk for long, and leaves the page
// cache.
//
// Thread safety: one thread.
// Ownership: borrows env and options. The files stay; Remove() is the caller's to call.
// Errors: DataLoss: memory is not what its digest says; Aborted: given up; else as FromRocksdb().
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"

#include "server/persist/persist_store.h"

namespace rocksdb {
class Env;
class SstFileWriter;
struct Options;
}  // namespace rocksdb

namespace gemel {

class ShardFiles {
 public:
  struct Options {
    rocksdb::Env* env = nullptr;
    const rocksdb::Options* table = nullptr;  // of the column family that takes them
    std::string folder;                       // on the file system of the database
    uint64_t file_bytes = 0;                  // a further file begins here
    PersistStepHook at_step;
  };

  ShardFiles(Options options, uint64_t range);
  ~ShardFiles();

  absl::Status Write(const PersistSource& source, const std::atomic<bool>& given_up);

  // In the order of their keys; durable under these names after Write().
  const std::vector<std::string>& paths() const { return paths_; }

  // What is left of them, under either name. The disk may be full or broken: errors say nothing.
  void Remove();

 private:
  absl::Status Begin();
  absl::Status Put(uint32_t index, ByteSpan value);
  absl::Status End();
  absl::Status WriteChunks(const PersistSource& source, const std::atomic<bool>& given_up);
  absl::Status Rename();
  absl::Status SyncFolder(PersistStep done);
  static std::string TemporaryOf(const std::string& path);

  const Options options_;
  const uint64_t range_;
  std::unique_ptr<rocksdb::SstFileWriter> writer_;  // of the last path; null between files
  std::vector<std::string> paths_;
};

}  // namespace gemel
