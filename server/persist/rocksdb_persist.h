// SPDX-License-Identifier: Apache-2.0
//
// RocksdbPersist: the production PersistStore. One thread writes, kPersistReadThreads read, so that
// a read waits for other reads only; RocksDB lets both use one handle. A task on the loop has the
// writing thread look after the disk every kPersistTendEvery: free space, and opening anew, with
// back-off, what failed.
//
// Thread safety: as PersistStore. The mutex of its core guards a handle and a few numbers; nobody
// waits for the disk under it.
// Ownership: owns threads and database. Made on the loop; destroyed there or after its shutdown; a
// disk that hangs holds the destructor for at most twice kPersistStopPatience.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/epoll_loop.h"
#include "server/limits.h"
#include "server/persist/persist_store.h"

namespace rocksdb {
class Env;
}  // namespace rocksdb

namespace gemel {

class RocksdbPersist final : public PersistStore {
 public:
  struct Options {
    std::string dir;              // made when absent; its parent must exist
    rocksdb::Env* env = nullptr;  // tests only: an Env that injects faults; outlives the store
    uint64_t file_bytes = kPersistFileBytes;
    PersistStepHook at_step;  // tests only; on the writing thread
  };

  // Opens in the background: state() says how that goes.
  static std::unique_ptr<RocksdbPersist> Start(EpollLoop* loop, Options options);
  ~RocksdbPersist() override;

  Task<absl::StatusOr<std::vector<PersistedSnapshot>>> List() override;
  Task<absl::Status> Write(PersistSource source) override;
  Task<absl::Status> MarkComplete(SnapshotId snapshot) override;
  Task<absl::Status> Drop(SnapshotId snapshot) override;
  Task<absl::StatusOr<std::vector<Digest128>>> ReadDigests(ShardId shard) override;
  Task<absl::StatusOr<std::string>> ReadManifest(SnapshotId snapshot) override;
  Task<absl::Status> ReadChunk(ShardId shard, uint32_t chunk, PersistTarget target) override;
  PersistState state() const override;
  std::string place() const override;

 private:
  class Core;

  explicit RocksdbPersist(std::shared_ptr<Core> core) : core_(std::move(core)) {}

  const std::shared_ptr<Core> core_;  // shared: tasks and jobs under way hold it
};

}  // namespace gemel
