// SPDX-License-Identifier: Apache-2.0
//
// ShardWriter: saves one shard of one snapshot (DESIGN section 3, steps 2 to 6).
//
//   open → fill (caller's thread, or Fill() on the loop) → Seal() → AwaitCommit()
//
// While it is filled, a task on the loop looks every kReportEvery at what is new and tells the
// server, so the network starts with the first chunk and the caller's thread makes no system call.
//
// Thread safety: the client's loop; filler() as ChunkFiller says.
// Ownership: shared, because the reporting task and the caller end in any order.
// Invariants:
//   (1) nothing is sealed before every chunk was reported and the writable mappings were dropped;
//   (2) after Seal() or Abort() nothing more is reported.
#pragma once

#include <memory>
#include <string>

#include "client/core/chunk_filler.h"
#include "client/core/client_core.h"

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
  uint32_t min_copies = 0;   // 0: = copies
  uint32_t keep_latest = 1;  // 0: keep all
  OnBusyPolicy on_busy = OnBusyPolicy::kWait;
  uint32_t persist_every = 0;  // which committed snapshots go to disk: gemel.v1.PersistPolicy
  uint32_t persist_interval_s = 0;
  uint32_t persist_copies = 0;
  uint32_t persist_keep = 0;
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
  static constexpr Duration kReportEvery = 1ms;

  // Null when placement decided SKIP, for all ranks. DeadlineExceeded names what was waited for.
  static Task<absl::StatusOr<std::shared_ptr<ShardWriter>>> Open(ClientCore* core,
                                                                 SaveOptions options);

  ChunkFiller* filler() { return filler_.get(); }

  // The caller's copy on the loop itself: for the simulator and for small shards.
  absl::Status Fill(ByteSpan source) { return filler_->Append(source); }

  // Drops the writable mapping, reports the last chunks, hands the seal to the server.
  // FailedPrecondition when bytes are missing. The server's verdict is waited for in AwaitCommit().
  Task<absl::Status> Seal();

  // Until committed, aborted (the reason is the error) or `deadline` (DeadlineExceeded: still
  // open).
  Task<absl::StatusOr<SaveResult>> AwaitCommit(TimePoint deadline);

  // Gives the attempt up for all ranks.
  Task<absl::Status> Abort(std::string why);

  const SnapshotId& snapshot() const { return snapshot_; }

  uint32_t rank() const { return options_.rank; }

  // How long Open() waited because an earlier save was still in progress or memory was short.
  Duration waited() const { return waited_; }

 private:
  ShardWriter(std::shared_ptr<Link> link, SaveOptions options);
  static Task<absl::StatusOr<std::pair<OpenShardReply, Handles>>> AskToOpen(
      std::shared_ptr<Link> link, OpenShard message, TimePoint deadline);
  absl::Status Accept(const OpenShardReply& reply, const Handles& handles);
  Task<void> ReportWhileFilling(std::shared_ptr<ShardWriter> self);
  Task<absl::Status> ReportNew();
  Task<void> SealAtServer(std::shared_ptr<ShardWriter> self);
  Task<void> PrepareNext(std::shared_ptr<ShardWriter> self);

  const std::shared_ptr<Link> link_;
  const SaveOptions options_;
  SnapshotId snapshot_;
  uint64_t upload_ = 0;
  std::vector<SlabPiece> pieces_;
  std::unique_ptr<ChunkFiller> filler_;
  Semaphore report_turn_;  // one report at a time, in order
  uint32_t reported_ = 0;
  bool filling_ = true;
  absl::Status report_status_;
  OneShot<absl::Status> sealed_;
  Duration waited_{};
};

}  // namespace gemel
