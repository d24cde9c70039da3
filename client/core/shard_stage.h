// SPDX-License-Identifier: Apache-2.0
//
// ShardStage: a shard that is written before it has a name (server/stages.h).
//
//   Open → fill (caller's thread) → Seal() → ShardWriter::Open() with its id, by this process or
//   another
//
// Thread safety: the client's loop; filler() as ChunkFiller says.
// Ownership: shared, because its calls and the caller end in any order. The memory is the server's:
// Drop(), or the end of the connection, frees what no snapshot took over.
#pragma once

#include <memory>

#include "client/core/client_core.h"
#include "client/core/shard_fill.h"

namespace gemel {

struct StageOptions {
  StageId id;  // drawn by the caller
  uint64_t shard_bytes = 0;
  uint64_t layout_bytes = 0;
  TimePoint deadline = kTimeNever;  // for memory
};

class ShardStage : public std::enable_shared_from_this<ShardStage> {
 public:
  // ResourceExhausted, naming the sizes, when there is no memory at the deadline, or never.
  static Task<absl::StatusOr<std::shared_ptr<ShardStage>>> Open(ClientCore* core,
                                                                StageOptions options);

  ChunkFiller* filler() { return fill_->filler(); }

  std::shared_ptr<ShardFill> fill() const { return fill_; }

  // Drops the writable mapping; returns when the server knows. It hashes the memory again at the
  // seal of the shard that this becomes. FailedPrecondition when bytes are missing.
  Task<absl::Status> Seal(TimePoint deadline);

  // Nothing when a snapshot took it over.
  Task<absl::Status> Drop();

  const StageId& id() const { return options_.id; }

  uint64_t bytes() const { return options_.shard_bytes; }

 private:
  ShardStage(std::shared_ptr<Link> link, const StageOptions& options)
      : link_(std::move(link)), options_(options) {}

  static Task<absl::StatusOr<std::pair<StageShardReply, Handles>>> AskForMemory(
      std::shared_ptr<Link> link, StageOptions options);

  const std::shared_ptr<Link> link_;
  const StageOptions options_;
  uint64_t upload_ = 0;
  std::shared_ptr<ShardFill> fill_;  // shared with its reporting task
};

}  // namespace gemel
