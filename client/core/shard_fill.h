// SPDX-License-Identifier: Apache-2.0
//
// ShardFill: the filling of one shard's memory, whether it has a name (ShardWriter) or not yet
// (ShardStage).
//
// While it is filled, a task on the loop looks every kReportEvery at what is new and tells the
// server, so the network starts before the last chunk and the caller's thread makes no system call.
// The first kReportAfter nothing is told: a server that sends takes processors from a caller that
// copies, and the training waits for the copy, not for the network. A long fill overlaps with it.
//
// Thread safety: the client's loop; filler() as ChunkFiller says.
// Ownership: shared, because the reporting task and the caller end in any order.
// Invariants:
//   (1) after Finish() the memory is not writable here, and only ReportRest() reports;
//   (2) after Stop() nothing more is reported.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "client/core/chunk_filler.h"
#include "client/core/link.h"

namespace gemel {

class ShardFill : public std::enable_shared_from_this<ShardFill> {
 public:
  static constexpr Duration kReportEvery = 1ms;
  static constexpr Duration kReportAfter = 100ms;

  // What the server gave for a shard of `bytes`.
  struct Given {
    uint64_t upload = 0;
    uint64_t bytes = 0;
    std::vector<SlabPiece> pieces;
  };

  // Maps the pieces and begins to report. Internal when they are not what was asked for.
  static Task<absl::StatusOr<std::shared_ptr<ShardFill>>> Start(std::shared_ptr<Link> link,
                                                                Given given, Handles handles);

  ChunkFiller* filler() { return &filler_; }

  // Before the first AppendFrom() of a device: Link::Pin() of this shard's memory.
  static Task<absl::StatusOr<bool>> Pin(std::shared_ptr<ShardFill> fill, Device* device);

  // What Pin() said, once it has. Any thread.
  std::optional<bool> pinned() const { return pinned_.load(); }

  // Ends writing: drops the writable mappings. FailedPrecondition when bytes are missing.
  absl::Status Finish();

  // After Finish(): reports the last chunks.
  Task<absl::Status> ReportRest() { return ReportNew(shared_from_this()); }

  // Gives up what is not reported.
  void Stop() {
    filling_ = false;
    use_ = nullptr;
  }

  bool filling() const { return filling_; }

  // Makes the memory of the next shard of that size warm, in the background.
  void PrepareNext();

 private:
  ShardFill(std::shared_ptr<Link> link, Given given, const std::vector<MutableByteSpan>& places);
  static Task<void> ReportWhileFilling(std::shared_ptr<ShardFill> self);
  static Task<absl::Status> ReportNew(std::shared_ptr<ShardFill> self);
  static Task<void> Prepare(std::shared_ptr<Link> link, uint64_t bytes);

  const std::shared_ptr<Link> link_;
  const Given given_;
  ChunkFiller filler_;
  Semaphore report_turn_;  // one report at a time, in order
  uint32_t reported_ = 0;
  bool filling_ = true;
  std::shared_ptr<void> use_;  // of the link's memory, while it may be written
  absl::Status report_status_;
  std::atomic<std::optional<bool>> pinned_;
};

}  // namespace gemel
