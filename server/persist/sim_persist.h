// SPDX-License-Identifier: Apache-2.0
//
// SimPersistState and SimPersist: the simulated PersistStore. The state is the medium and survives
// the process; a SimPersist is one process's use of it. Each step of a write takes 100 to 900 us of
// virtual time, drawn from the store's Random.
//
// Thread safety: one thread.
// Ownership: SimPersist borrows loop and state; both outlive it. One SimPersist at a time uses a
// state.
// Invariants:
//   (1) a crash takes what has no record; a record that was being written is there or not, by
//       chance;
//   (2) what was reported as done is never undone, except by Wipe(), RollBackTo() and Rot().
// Errors: as PersistStore; the knobs below make them.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/loop.h"
#include "common/random.h"
#include "common/sync.h"
#include "server/persist/persist_store.h"

namespace gemel {

class SimPersistState {
 public:
  // Shards beyond it give ResourceExhausted.
  void set_capacity_bytes(uint64_t bytes) { capacity_bytes_ = bytes; }

  // Steps take `factor` times as long. REQUIRES: factor > 0.
  void set_slowness(uint32_t factor);

  // While it hangs no step ends.
  void set_hung(bool hung) { hung_ = hung; }

  // The next step of a write, mark or drop gives Unavailable, and the handle is abandoned.
  void FailNextStep() { fail_next_step_ = true; }

  // The chunk decays: reading it gives DataLoss. False when it is not there.
  bool Rot(const ShardId& shard, uint32_t chunk);

  // Everything gone, as after a replaced disk. While no SimPersist uses it.
  void Wipe();

  // A picture of the medium, and an old one put back. The latter while no SimPersist uses it.
  struct Contents;
  std::shared_ptr<const Contents> Picture() const;  // shared: one picture, many disks
  void RollBackTo(const Contents& contents);

  // No knob is set any more.
  void Calm();

  // What the knobs did, each counted where it struck.
  struct Stats {
    uint64_t failed_steps = 0;
    uint64_t refused_full = 0;
    uint64_t hung_looks = 0;
    uint64_t slow_steps = 0;
  };

  const Stats& stats() const { return stats_; }

  // It is there, and every chunk of it has its digest.
  bool IsSound(const ShardId& shard) const;

  // With what a crash or a failure left behind.
  uint64_t occupied_bytes() const;

  // Shards that a crash now would leave whole, with the commit records of their snapshots.
  std::vector<std::pair<ShardId, std::string>> Durable() const;

 private:
  friend class SimPersist;

  struct File {
    PersistedShard shard;
    std::vector<Digest128> digests;
    std::vector<std::string> chunks;  // that were written
    std::string record;               // of its snapshot, and the manifest
    std::string manifest;
    bool recorded = false;
    bool in_doubt = false;  // its record is being written
  };

  struct Snapshot {
    std::string record;
    std::string manifest;
    bool complete = false;
  };

  // What opening after a crash or a failure does.
  void Settle(Random* random);
  // Null when it has no record.
  File* Find(const ShardId& shard);
  const File* Find(const ShardId& shard) const;
  void Record(uint64_t range);
  void Unrecord(const SnapshotId& snapshot);
  void EraseUnrecorded();

  std::map<uint64_t, File> files_;  // by range
  std::map<SnapshotId, Snapshot> snapshots_;
  std::optional<SnapshotId> dropping_;  // its records are being removed
  uint64_t next_range_ = 1;
  uint64_t capacity_bytes_ = UINT64_MAX;
  uint32_t slowness_ = 1;
  bool hung_ = false;
  bool fail_next_step_ = false;
  bool in_use_ = false;
  Stats stats_;
};

struct SimPersistState::Contents {
  std::map<uint64_t, File> files;
  std::map<SnapshotId, Snapshot> snapshots;
};

class SimPersist final : public PersistStore {
 public:
  // Settles what a former process left.
  SimPersist(Loop* loop, SimPersistState* state, Random random);
  ~SimPersist() override;

  // Called at each step of a write and a drop, before the next begins.
  void SetHook(PersistStepHook at_step);

  Task<absl::StatusOr<std::vector<PersistedSnapshot>>> List() override;
  Task<absl::Status> Write(PersistSource source) override;
  Task<absl::Status> MarkComplete(SnapshotId snapshot) override;
  Task<absl::Status> Drop(SnapshotId snapshot) override;
  Task<absl::StatusOr<std::vector<Digest128>>> ReadDigests(ShardId shard) override;
  Task<absl::StatusOr<std::string>> ReadManifest(SnapshotId snapshot) override;
  Task<absl::Status> ReadChunk(ShardId shard, uint32_t chunk, PersistTarget target) override;
  PersistState state() const override;

  std::string place() const override { return "the simulated disk"; }

 private:
  struct Writing {
    SnapshotId snapshot;
    bool given_up = false;
  };

  // Shared: its coroutines may outlive the store.
  struct Use {
    Use(Loop* loop, SimPersistState* state, Random random)
        : loop(loop), state(state), random(random), turn(loop, 1) {}

    Loop* const loop;
    SimPersistState* const state;
    Random random;
    Semaphore turn;  // of writes, marks and drops
    size_t waiting = 0;
    std::vector<std::shared_ptr<Writing>> writing;  // shared with their coroutines
    PersistStepHook at_step;
    std::optional<TimePoint> reopen_at;  // after a failure
    uint64_t progress = 0;
    uint64_t openings = 1;
    uint64_t full_for_bytes = 0;
    bool closed = false;
  };

  using UsePtr = std::shared_ptr<Use>;

  static absl::Status CheckOpen(Use* use);
  static Task<absl::Status> Pass(UsePtr use, bool writes);
  static Task<absl::Status> Step(UsePtr use, PersistStep step);
  static Task<absl::Status> TakeTurn(UsePtr use);
  static Task<absl::Status> DoWrite(UsePtr use, PersistSource source);
  static Task<absl::Status> WriteFile(UsePtr use, std::shared_ptr<const PersistSource> source,
                                      std::shared_ptr<Writing> writing, uint64_t range);
  static Task<absl::Status> WriteChunks(UsePtr use, std::shared_ptr<const PersistSource> source,
                                        std::shared_ptr<Writing> writing, uint64_t range);
  static Task<absl::Status> DoMark(UsePtr use, SnapshotId snapshot);
  static Task<absl::Status> DoDrop(UsePtr use, SnapshotId snapshot);
  static absl::Status CheckSpace(Use* use, const PersistSource& source, uint64_t more);
  static uint64_t FreeBytes(const Use& use);

  const UsePtr use_;
};

}  // namespace gemel
