// SPDX-License-Identifier: Apache-2.0
//
// ShardWriter: saves one shard of one snapshot (DESIGN section 3, steps 2 to 6).
//
//   open → fill (caller's thread, or Fill() on the loop) → Seal() → AwaitCommit()
//   open of what was staged (shard_stage.h) → Seal() → AwaitCommit()
//
// Thread safety: the client's loop; filler() as ChunkFiller says.
// Ownership: shared, because its calls and the caller end in any order.
// Invariants:
//   (1) nothing is sealed before every chunk was reported and the writable mappings were dropped;
//   (2) after Seal() or Abort() nothing more is reported.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "client/core/client_core.h"
#include "client/core/shard_fill.h"

namespace gemel {

struct SaveOptions {
  std::string job;
  EpochId epoch;
  std::string name;
  uint32_t attempt = 0;
  uint32_t rank = 0;
  uint32_t world_size = 1;
  uint64_t shard_bytes = 0;
  uint64_t layout_bytes = 0;
  Digest128 layout_hash;
  uint32_t copies = 2;
  uint32_t min_copies = 0;  // 0: = copies
  StrategyChoice strategy = StrategyChoice::kGroup;
  uint32_t keep_latest = 1;  // 0: keep all
  OnBusyPolicy on_busy = OnBusyPolicy::kWait;
  uint32_t persist_every = 0;  // which committed snapshots go to disk: gemel.v1.PersistPolicy
  uint32_t persist_interval_s = 0;
  uint32_t persist_copies = 0;
  uint32_t persist_keep = 0;
  StageId stage;                    // not zero: the shard is what was staged under this id
  TimePoint deadline = kTimeNever;  // of the open; the commit has its own
  Duration save_timeout = 120s;     // after it an attempt that is still open is aborted
};

struct SaveResult {
  bool redundancy_full = false;
  uint32_t copies = 0;
  Digest128 root;  // of the snapshot object
};

class ShardWriter : public std::enable_shared_from_this<ShardWriter> {
 public:
  // Null when placement decided SKIP, for all ranks. DeadlineExceeded names what was waited for;
  // NotFound, FailedPrecondition and InvalidArgument the stage that cannot be opened so.
  static Task<absl::StatusOr<std::shared_ptr<ShardWriter>>> Open(ClientCore* core,
                                                                 SaveOptions options);

  // Null for what was staged: nothing is left to fill.
  ChunkFiller* filler() { return fill_ != nullptr ? fill_->filler() : nullptr; }

  std::shared_ptr<ShardFill> fill() const { return fill_; }

  // The caller's copy on the loop itself: for the simulator and for small shards.
  absl::Status Fill(ByteSpan source) { return filler()->Append(source); }

  // Drops the writable mapping, reports the last chunks, hands the seal to the server.
  // FailedPrecondition when bytes are missing. The server's verdict is waited for in AwaitCommit().
  Task<absl::Status> Seal();

  // Until committed, aborted (the reason is the error) or `deadline` (DeadlineExceeded: still
  // open). When the server dies meanwhile its next life is asked: what it had sealed may commit.
  Task<absl::StatusOr<SaveResult>> AwaitCommit(TimePoint deadline);

  // Gives the attempt up for all ranks.
  Task<absl::Status> Abort(std::string why);

  const SnapshotId& snapshot() const { return snapshot_; }

  uint32_t rank() const { return options_.rank; }

  // How long Open() waited because an earlier save was still in progress or memory was short.
  Duration waited() const { return waited_; }

 private:
  ShardWriter(ClientCore* core, std::shared_ptr<Link> link, SaveOptions options);
  static Task<absl::StatusOr<std::pair<OpenShardReply, Handles>>> AskToOpen(
      std::shared_ptr<Link> link, OpenShard message, TimePoint deadline);
  Task<absl::Status> Accept(OpenShardReply reply, Handles handles);
  Task<void> SealAtServer(std::shared_ptr<ShardWriter> self);

  ClientCore* const core_;
  const std::shared_ptr<Link> link_;
  const SaveOptions options_;
  SnapshotId snapshot_;
  uint64_t upload_ = 0;
  std::shared_ptr<ShardFill> fill_;        // shared with its reporting task; null: it was staged
  std::vector<Digest128> staged_digests_;  // of what was staged
  bool open_ = true;                       // neither sealed nor aborted
  OneShot<absl::Status> sealed_;
  Duration waited_{};
};

}  // namespace gemel
