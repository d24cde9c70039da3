// SPDX-License-Identifier: Apache-2.0
//
// Tier: this server's persistent tier as the rest of the server sees it (DESIGN section 8): what is
// on disk, from memory; writing, marking and dropping it when placement says so; reading it back.
//
//   store listed → inventory → join;  directive → written and synced → receipt;
//   a disk in trouble → heartbeat, event
//
// Thread safety: one loop.
// Ownership: borrows the store, which may be missing: then it holds nothing and refuses everything.
// Load() spawns its tasks; they end when the gate closes. Operations under way hold no part of the
// tier: a disk that hangs keeps neither it nor the server from ending.
// Invariants:
//   (1) the inventory has what the store reported as whole, and nothing else. A shard that was read
//       damaged is told to placement as gone, and written anew when placement asks for it;
//   (2) nobody on the loop waits for the disk without a bound, except the directive whose work it
//       is; EndAll() ends those;
//   (3) trouble is told once for each change, never per heartbeat.
// Errors: as PersistStore; FailedPrecondition without a tier; DeadlineExceeded for a read that the
// disk does not answer within kReadDeadline.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/sync.h"
#include "server/control.h"
#include "server/objects.h"
#include "server/persist/persist_store.h"

namespace gemel {

class Tier {
 public:
  using Digests = std::shared_ptr<const std::vector<Digest128>>;  // shared with the reads under way
  // What is on disk is not what placement was told: join again.
  using Changed = std::function<void(std::string why)>;

  Tier(const ServerSeams& seams, const Control* control, Duration patience);

  void OnChanged(Changed changed) { changed_ = std::move(changed); }

  // Returns when the disk was listed, or after kPersistListPatience: then the server goes on
  // without it, and Changed follows once it was.
  Task<void> Load(Gate* gate);
  // Ends the waits for writes, marks and drops.
  void EndAll(const absl::Status& why);

  // OK: whole and synced, now or before. REQUIRES: `object` is sealed.
  Task<absl::Status> Persist(std::shared_ptr<const Object> object, std::string record,
                             std::string manifest);
  Task<absl::Status> MarkComplete(SnapshotId snapshot);
  Task<absl::Status> Drop(SnapshotId snapshot);

  // Null when it is not on disk under that root. Damaged ones are: chunks of it may be good.
  const PersistedShard* Find(const ShardId& shard, const Digest128& root) const;
  // The same, and sound as far as anybody knows.
  bool HasSound(const ShardId& shard, const Digest128& root) const;

  // For scrubbing: that shard, or the first behind it or of all, if it is sound; none otherwise.
  std::optional<PersistedShard> SoundAt(const ShardId& shard) const;
  std::optional<PersistedShard> NextSound(const std::optional<ShardId>& after) const;
  // Of all shards on disk.
  uint64_t used_bytes() const;

  Task<absl::StatusOr<Digests>> ReadDigests(ShardId shard, Digest128 root);
  // Verified. `keep` holds `into`, also after this call has ended.
  Task<absl::Status> ReadChunk(ShardId shard, Digest128 root, uint32_t chunk, MutableByteSpan into,
                               std::shared_ptr<void> keep);
  // Reads every chunk. DataLoss at the first that is damaged; other errors say nothing of the
  // shard.
  Task<absl::Status> Verify(ShardId shard, Digest128 root);
  // DataLoss when its root is another.
  Task<absl::StatusOr<std::string>> ReadManifest(SnapshotId snapshot, Digest128 root);

  void WriteInventory(pb::JoinRequest* request) const;
  void WriteState(pb::TierState* state);

 private:
  struct Held {
    PersistedShard shard;
    bool damaged = false;
  };

  struct Entry {
    std::string record;
    bool complete = false;
    std::map<uint32_t, Held> shards;  // by rank
  };

  using Inventory = std::map<SnapshotId, Entry>;
  using Result = std::shared_ptr<OneShot<absl::Status>>;

  // Of the operations that the store was given. Shared: they may outlive the tier.
  struct Activity {
    uint64_t begun = 0;
    uint64_t ended = 0;
  };

  template <typename T>
  static Task<void> RunOperation(Task<T> operation, std::shared_ptr<OneShot<T>> result,
                                 std::shared_ptr<Activity> activity);
  template <typename T>
  std::shared_ptr<OneShot<T>> Begin(Task<T> operation);
  template <typename T>
  Task<T> Read(Task<T> operation);
  Task<absl::Status> Change(Task<absl::Status> operation);
  Task<void> FollowStore(Gate* gate);
  Task<void> Watch(Gate* gate);
  void Adopt(std::vector<PersistedSnapshot> listed);
  Task<absl::Status> Write(std::shared_ptr<const Object> object, std::string record,
                           std::string manifest);
  void Written(const PersistedShard& shard, std::string record, Duration took);
  Held* HeldOf(const ShardId& shard);
  void NoteDamage(const ShardId& shard, const absl::Status& why);
  void KeepDigests(const ShardId& shard, Digests digests);
  void ForgetDigests(const ShardId& shard);
  bool IsOurs(const Entry& entry) const;
  absl::Status CheckExists() const;
  Duration SilentFor();
  std::string Trouble(bool* silent);
  void TellTrouble();
  void JoinForUndropped();
  void SetGauges();

  const ServerSeams seams_;
  PersistStore* const store_;
  const Control* const control_;
  const Duration patience_;  // at start, with a disk that is not read yet
  Changed changed_;
  Inventory inventory_;
  std::multiset<SnapshotId> dropping_;  // by directives under way: no inventory names them
  bool listed_ = false;
  bool late_ = false;  // joined before it was listed
  uint64_t listed_opening_ = 0;
  bool undropped_ = false;  // a drop failed and the snapshot is still here
  WaitQueue listed_change_;
  std::map<ShardId, Result> writing_;
  std::vector<Result> waits_;  // of changes
  std::map<ShardId, Digests> digests_;
  std::deque<ShardId> digests_order_;  // the oldest first
  std::shared_ptr<Activity> activity_;
  uint64_t progress_ = 0;  // when it last changed
  TimePoint progress_at_{};
  std::string told_trouble_;
};

template <typename T>
Task<void> Tier::RunOperation(Task<T> operation, std::shared_ptr<OneShot<T>> result,
                              std::shared_ptr<Activity> activity) {
  T value = co_await std::move(operation);
  activity->ended += 1;
  result->Set(std::move(value));
}

// The operation runs by itself from here on: who waits for it may leave.
template <typename T>
std::shared_ptr<OneShot<T>> Tier::Begin(Task<T> operation) {
  auto result = std::make_shared<OneShot<T>>(seams_.loop);
  activity_->begun += 1;
  seams_.loop->Spawn(RunOperation<T>(std::move(operation), result, activity_));
  return result;
}

template <typename T>
Task<T> Tier::Read(Task<T> operation) {
  const std::shared_ptr<OneShot<T>> result = Begin<T>(std::move(operation));
  const TimePoint deadline = Add(seams_.loop->Now(), kReadDeadline);
  const bool answered = co_await result->WaitUntil(deadline);
  if (!answered) {
    co_return error::DeadlineExceeded("the disk below {} gave no answer within {} ms",
                                      store_->place(), Milliseconds(kReadDeadline));
  }
  co_return std::move(result->value());
}

}  // namespace gemel
