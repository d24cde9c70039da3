// SPDX-License-Identifier: Apache-2.0
//
// PersistStore: the persistent tier of one server as a medium (DESIGN section 8): whole shards,
// each with its snapshot's commit record and manifest beside it. What to write, to keep and to tell
// is the Tier's (server/tier.h).
//
// Production: RocksdbPersist. Simulation: SimPersist. One conformance test runs over both
// (tests/unit/server_persist_test.cc).
//
// Thread safety: one loop. Work runs off the loop; a disk that hangs holds back results, never the
// loop. Writes, marks and drops run one after the other in the order of the calls; reads run beside
// them and never wait for a shard that is being written.
// Ownership: `keep` of a source or a target holds its memory until the store lets go of it, which
// it does on the loop (or in its own destructor).
// Invariants:
//   (1) a shard is on disk exactly when its synced record is: whatever else a crash left behind is
//       removed when the store is opened;
//   (2) no chunk is written whose memory does not have its digest, and none is handed out whose
//       bytes, read from the disk, do not;
//   (3) after an error of the disk the file and the handle are abandoned. Nothing is synced again
//       on them; the store is opened anew.
// Errors: NotFound; DataLoss names shard, chunk and what differs; ResourceExhausted when the disk
// or the queue is full, with sizes and flag; Aborted when the snapshot was dropped meanwhile;
// Unavailable when the disk fails or the store is not open; Cancelled when it is closing.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/bytes.h"
#include "common/digest.h"
#include "common/ids.h"
#include "common/task.h"

namespace gemel {

// A shard on disk, as its receipt names it.
struct PersistedShard {
  ShardId shard;
  EpochToken token;
  Digest128 root;
  uint64_t bytes = 0;  // REQUIRES: > 0
  uint64_t layout_bytes = 0;

  friend bool operator==(const PersistedShard&, const PersistedShard&) = default;
};

// What is whole on disk of one snapshot.
struct PersistedSnapshot {
  SnapshotId snapshot;
  bool complete = false;               // MarkComplete() was called
  std::string record;                  // placement/model/records.h
  std::vector<PersistedShard> shards;  // by rank; at least one
};

// A shard to be written.
struct PersistSource {
  PersistedShard shard;
  std::vector<Digest128> digests;  // of the chunks; REQUIRES: ChunkCount(shard.bytes) of them
  std::vector<ByteSpan> chunks;
  std::string record;
  std::string manifest;
  std::shared_ptr<const void> keep;  // shared: the owner of the chunks may let go meanwhile
};

// Where a chunk goes.
struct PersistTarget {
  MutableByteSpan bytes;       // exactly the chunk
  Digest128 digest;            // that it must have
  std::shared_ptr<void> keep;  // shared: the reader may go away meanwhile
};

struct PersistState {
  std::string trouble;      // empty: healthy; else what is wrong and the way out
  uint64_t used_bytes = 0;  // of whole shards
  uint64_t free_bytes = 0;  // of the file system, when it was last asked
  uint64_t progress = 0;    // grows with every step that the disk answered
  uint64_t openings = 0;    // grows when it is opened: list it again
};

// What a crash may fall between. Tests stop there; production has no hook.
enum class PersistStep : uint8_t {
  kChunkWritten,
  kFileSynced,       // under its temporary name
  kDirectorySynced,  // the temporary name is durable
  kRenamed,
  kRenameSynced,
  kIngested,    // part of the database; no record yet
  kRecorded,    // the shard is on disk
  kUnrecorded,  // a drop: no shard any more, its bytes still there
  kRetired,     // and the bytes are gone
};

inline constexpr PersistStep kPersistStepsOfWrite[] = {
    PersistStep::kChunkWritten, PersistStep::kFileSynced,   PersistStep::kDirectorySynced,
    PersistStep::kRenamed,      PersistStep::kRenameSynced, PersistStep::kIngested,
    PersistStep::kRecorded};

using PersistStepHook = std::function<void(PersistStep)>;

class PersistStore {
 public:
  virtual ~PersistStore() = default;

  // By snapshot, in order.
  virtual Task<absl::StatusOr<std::vector<PersistedSnapshot>>> List() = 0;
  // Whole and synced when OK. A shard that is there already is replaced.
  virtual Task<absl::Status> Write(PersistSource source) = 0;
  // Synced when OK. NotFound when nothing of the snapshot is there.
  virtual Task<absl::Status> MarkComplete(SnapshotId snapshot) = 0;
  // Gives up the writes of it that were begun, then forgets all of it. OK when it was not there.
  virtual Task<absl::Status> Drop(SnapshotId snapshot) = 0;

  // Checked against the shard's root.
  virtual Task<absl::StatusOr<std::vector<Digest128>>> ReadDigests(ShardId shard) = 0;
  virtual Task<absl::StatusOr<std::string>> ReadManifest(SnapshotId snapshot) = 0;
  virtual Task<absl::Status> ReadChunk(ShardId shard, uint32_t chunk, PersistTarget target) = 0;

  virtual PersistState state() const = 0;
  // For messages: "/var/lib/gemel/server-0/persist".
  virtual std::string place() const = 0;
};

}  // namespace gemel
