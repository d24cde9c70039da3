// SPDX-License-Identifier: Apache-2.0
//
// RocksdbStore: the MetaStore of a single manager, an embedded RocksDB. Every transaction is one
// synced write; reads and writes run on one worker thread, in the order in which they were begun,
// and come back on the loop.
//
// Layout (docs/formats): "v" -> u64 store version; "k" + key -> u64 version, value. The file
// GEMEL_STORE beside the database says that it once existed: a directory that has it but no
// database is refused, never filled with an empty one.
//
// Thread safety: one loop; the worker never touches loop state.
// Ownership: owns database, lock and thread. The destructor ends the thread once what was begun is
// done. Errors: as MetaStore. After a failed write the database handle is abandoned and opened
// again (never retried on the same handle, fsync errors included); what was written is then read
// back, so most failures have a known outcome.
#pragma once

#include <memory>
#include <string>

#include "common/epoll_loop.h"
#include "placement/store/meta_store.h"

namespace rocksdb {
class Env;
}  // namespace rocksdb

namespace gemel {

// Operations under way; further ones are refused with ResourceExhausted.
inline constexpr size_t kStoreOperationsMax = 65'536;

class RocksdbStore final : public MetaStore {
 public:
  struct Options {
    std::string dir;              // made when absent; its parent must exist
    rocksdb::Env* env = nullptr;  // tests only: an Env that injects faults; outlives the store
  };

  // FailedPrecondition, naming the directory: another process has it open, or it held a database
  // that is gone. Otherwise as MetaStore.
  static absl::StatusOr<std::unique_ptr<RocksdbStore>> Open(EpollLoop* loop, Options options);
  ~RocksdbStore() override;

  Task<absl::StatusOr<std::optional<Versioned>>> Get(std::string key) override;
  Task<absl::StatusOr<std::vector<KeyValue>>> List(std::string prefix) override;
  Task<absl::StatusOr<CommitResult>> Commit(Txn txn) override;
  std::string name() const override;

 private:
  class Worker;

  explicit RocksdbStore(std::shared_ptr<Worker> worker) : worker_(std::move(worker)) {}

  std::shared_ptr<Worker> worker_;  // shared: results under way hold it
};

}  // namespace gemel
