// SPDX-License-Identifier: Apache-2.0
//
// RestoreReader: one rank's part of a restore (DESIGN section 4), or the reading of one committed
// snapshot by name, which has no epoch and is neither reported nor awaited.
//
//   Begin → Ensure(bytes of shards) on the loop → CopyOut() on the caller's thread → Report →
//   AwaitEnd
//   BeginRead → Ensure → CopyOut → Release
//
// The server verifies what it fetched before it hands it out; CopyOut() verifies each chunk once
// more in the memory of this host, so no unverified byte is handed over: a whole chunk while it is
// copied, and one that does not match is wiped; a part of a chunk before its first byte is copied.
//
// Thread safety: the client's loop; CopyOut() on one other thread, never at the same time as an
// Ensure() of the same chunks. Ownership: shared, because a reply in flight and the caller end in
// any order. The memory of chunks stays readable until Release() or the end of the connection.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "client/core/client_core.h"
#include "common/digest.h"

namespace gemel {

struct RestoreOptions {
  std::string job;
  EpochId epoch;
  uint32_t rank = 0;
  uint32_t world_size = 1;  // of the new world: any
  TimePoint deadline = kTimeNever;
  // Called on the loop when the answer is "wait", with for whom.
  std::function<void(const std::string& progress)> progress;
};

struct ReadOptions {
  std::string job;
  std::string name;  // empty: the newest committed
  TimePoint deadline = kTimeNever;
};

struct RestoreEnd {
  bool moved = false;  // the record moved to an older snapshot for all ranks: begin again
  // What this rank could not read is not lost: begin again, with the sources of now.
  bool read_again = false;
  std::vector<std::string> lost;  // what was lost and why
};

class RestoreReader : public std::enable_shared_from_this<RestoreReader> {
 public:
  // Null when the job never committed here. DataLoss, naming the shards, when everything that was
  // committed is lost. DeadlineExceeded names for whom the restore still waits.
  static Task<absl::StatusOr<std::shared_ptr<RestoreReader>>> Begin(ClientCore* core,
                                                                    RestoreOptions options);

  // NotFound names what is there instead. The snapshot stays until Release().
  static Task<absl::StatusOr<std::shared_ptr<RestoreReader>>> BeginRead(ClientCore* core,
                                                                        ReadOptions options);

  const SnapshotId& snapshot() const { return begun_.snapshot; }

  // By rank of the saved world.
  const std::vector<RestoreShard>& shards() const { return begun_.shards; }

  uint32_t round() const { return begun_.round; }

  // What was lost before this snapshot was chosen; empty in round 0.
  const std::vector<std::string>& lost() const { return begun_.lost; }

  // Brings the chunks that hold [offset, offset + bytes) of `shard` to this host. DataLoss or
  // Unavailable name chunk, sources and reasons: Report() it.
  Task<absl::Status> Ensure(uint32_t shard, uint64_t offset, uint64_t bytes);

  // REQUIRES: Ensure() of these bytes. DataLoss when a chunk does not match its digest.
  absl::Status CopyOut(uint32_t shard, uint64_t offset, MutableByteSpan destination);

  // Says how it went for this rank. `unreadable` names shards that no source could give.
  Task<absl::Status> Report(bool verified, std::vector<uint32_t> unreadable, std::string why);

  // Until all ranks have verified, or the record moved. After Report(false) also once it is clear
  // that the record does not move soon (kReadAgainAfter): what was unreadable may be readable now.
  Task<absl::StatusOr<RestoreEnd>> AwaitEnd(TimePoint deadline);

  // The server may reuse the memory.
  Task<absl::Status> Release();

  uint64_t local_bytes() const { return local_bytes_; }

  uint64_t peer_bytes() const { return peer_bytes_; }

 private:
  struct Chunk {
    ByteSpan bytes;
    Digest128 digest;
    bool here = false;
    bool verified = false;
  };

  // How the two kinds begin: what is asked until the server has chosen.
  template <typename Message>
  struct Question {
    FrameType type;
    Message message;
    std::string what;  // "restoring job gpt"
    TimePoint deadline;
    std::function<void(const std::string& progress)> progress;
  };

  template <typename Message>
  static Task<absl::StatusOr<std::shared_ptr<RestoreReader>>> AskToBegin(
      std::shared_ptr<Link> link, Question<Message> question);

  RestoreReader(std::shared_ptr<Link> link, BeginRestoreDone begun, TimePoint deadline);
  Task<absl::Status> FetchRange(std::shared_ptr<RestoreReader> self, uint32_t shard,
                                uint32_t first_chunk, uint32_t count);
  absl::Status Install(const FetchChunks& asked, const FetchChunksReply& reply,
                       const Handles& handles);
  absl::Status CheckRange(uint32_t shard, uint64_t offset, uint64_t bytes) const;
  absl::Status CopyFromChunk(uint32_t shard, uint32_t index, size_t at,
                             MutableByteSpan destination);

  const std::shared_ptr<Link> link_;
  const std::shared_ptr<void> use_;  // of the link's memory
  const BeginRestoreDone begun_;
  const TimePoint deadline_;
  std::vector<std::vector<Chunk>> chunks_;  // by shard
  Semaphore window_;                        // FetchChunks calls in flight
  bool reported_unreadable_ = false;
  uint64_t local_bytes_ = 0;
  uint64_t peer_bytes_ = 0;
};

}  // namespace gemel
