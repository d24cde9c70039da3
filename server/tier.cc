// SPDX-License-Identifier: Apache-2.0
#include "server/tier.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "placement/model/records.h"

namespace gemel {
namespace {

constexpr Duration kListLate = 2s;  // a disk that takes its time, in the simulator

}  // namespace

Tier::Tier(const ServerSeams& seams, const Control* control, Duration patience)
    : seams_(seams),
      store_(seams.persist),
      control_(control),
      patience_(patience),
      listed_change_(seams.loop),
      activity_(std::make_shared<Activity>()) {
  GEMEL_CHECK(control != nullptr);
}

absl::Status Tier::CheckExists() const {
  return store_ != nullptr ? absl::OkStatus()
                           : error::FailedPrecondition(
                                 "this server has no persistent tier: start it with --persist-dir");
}

Task<absl::Status> Tier::Change(Task<absl::Status> operation) {
  const Result result = Begin<absl::Status>(std::move(operation));
  waits_.push_back(result);
  const bool answered = co_await result->WaitUntil(kTimeNever);
  GEMEL_CHECK(answered);
  std::erase(waits_, result);
  co_return result->value();
}

void Tier::EndAll(const absl::Status& why) {
  GEMEL_CHECK(!why.ok());
  for (const Result& wait : waits_) {
    wait->Set(why);
  }
}

Task<void> Tier::Load(Gate* gate) {
  if (store_ == nullptr) {
    co_return;
  }
  seams_.loop->Spawn(FollowStore(gate));
  seams_.loop->Spawn(Watch(gate));
  const TimePoint until = Add(seams_.loop->Now(), patience_);
  while (!listed_ && seams_.loop->Now() < until) {
    co_await listed_change_.WaitUntil(until);
  }
  late_ = !listed_;
  if (late_) {
    seams_.events->Emit(
        Severity::kWarning, "tier_late",
        fmt::format("the disk below {} was not read within {:g} s: this server joins "
                    "without it and again when it was",
                    store_->place(), Milliseconds(patience_) / 1e3));
  }
}

// Lists the store each time that it was opened.
Task<void> Tier::FollowStore(Gate* gate) {
  const Gate::Pass pass = gate->Enter();
  RetryDelay delay;
  while (pass && !gate->closed()) {
    const uint64_t opening = store_->state().openings;
    if (listed_ && opening == listed_opening_) {
      co_await seams_.loop->Sleep(kPersistWatchEvery);
      continue;
    }
    if (Buggify(BuggifySite::kTierListLate)) {
      co_await seams_.loop->Sleep(kListLate);
    }
    using Listed = absl::StatusOr<std::vector<PersistedSnapshot>>;
    const std::shared_ptr<OneShot<Listed>> result = Begin<Listed>(store_->List());
    while (!result->is_set() && !gate->closed()) {
      co_await result->WaitUntil(Add(seams_.loop->Now(), kPersistWatchEvery));
    }
    if (!result->is_set() || !result->value().ok()) {
      co_await seams_.loop->Sleep(delay.Next());
      continue;
    }
    delay.Reset();
    Reach(CrashPoint::kTierListed);
    listed_opening_ = opening;
    Adopt(*std::move(result->value()));
  }
}

void Tier::Adopt(std::vector<PersistedSnapshot> listed) {
  Inventory found;
  for (PersistedSnapshot& snapshot : listed) {
    Entry& entry = found[snapshot.snapshot];
    entry.record = std::move(snapshot.record);
    entry.complete = snapshot.complete;
    for (PersistedShard& shard : snapshot.shards) {
      const Held* before = HeldOf(shard.shard);
      const bool damaged = before != nullptr && before->damaged && before->shard == shard;
      const uint32_t rank = shard.shard.rank;
      entry.shards[rank] = Held{std::move(shard), damaged};
    }
  }
  pb::JoinRequest before;
  WriteInventory(&before);
  inventory_ = std::move(found);
  digests_.clear();
  digests_order_.clear();
  pb::JoinRequest after;
  WriteInventory(&after);
  const bool differs = before.SerializeAsString() != after.SerializeAsString();
  const bool tell = listed_ ? differs : late_;
  listed_ = true;
  listed_change_.NotifyAll();
  SetGauges();
  if (tell && changed_) {
    changed_(fmt::format("the disk below {} was read anew and holds {} snapshots: joining again",
                         store_->place(), inventory_.size()));
  }
}

Task<void> Tier::Watch(Gate* gate) {
  const Gate::Pass pass = gate->Enter();
  while (pass && !gate->closed()) {
    if (listed_ || late_) {
      TellTrouble();
      SetGauges();
    }
    JoinForUndropped();
    co_await seams_.loop->Sleep(kPersistWatchEvery);
  }
}

// Placement took what it told this server to drop off its lists. Joining again shows it what is
// still here.
void Tier::JoinForUndropped() {
  if (undropped_ && listed_ && changed_ && store_->state().trouble.empty()) {
    undropped_ = false;
    Sometimes(Situation::kDropRepeated);
    changed_(fmt::format("the disk below {} still holds what could not be dropped: joining again",
                         store_->place()));
  }
}

Tier::Held* Tier::HeldOf(const ShardId& shard) {
  const auto entry = inventory_.find(shard.snapshot);
  if (entry == inventory_.end()) {
    return nullptr;
  }
  const auto held = entry->second.shards.find(shard.rank);
  return held == entry->second.shards.end() ? nullptr : &held->second;
}

const PersistedShard* Tier::Find(const ShardId& shard, const Digest128& root) const {
  const auto entry = inventory_.find(shard.snapshot);
  if (entry == inventory_.end()) {
    return nullptr;
  }
  const auto held = entry->second.shards.find(shard.rank);
  const bool here = held != entry->second.shards.end() && held->second.shard.root == root;
  return here ? &held->second.shard : nullptr;
}

bool Tier::HasSound(const ShardId& shard, const Digest128& root) const {
  return Find(shard, root) != nullptr &&
         !inventory_.at(shard.snapshot).shards.at(shard.rank).damaged;
}

std::optional<PersistedShard> Tier::SoundAt(const ShardId& shard) const {
  const auto entry = inventory_.find(shard.snapshot);
  if (entry == inventory_.end()) {
    return std::nullopt;
  }
  const auto held = entry->second.shards.find(shard.rank);
  const bool sound = held != entry->second.shards.end() && !held->second.damaged;
  return sound ? std::optional(held->second.shard) : std::nullopt;
}

std::optional<PersistedShard> Tier::NextSound(const std::optional<ShardId>& after) const {
  auto entry = after.has_value() ? inventory_.lower_bound(after->snapshot) : inventory_.begin();
  for (; entry != inventory_.end(); ++entry) {
    const bool same = after.has_value() && entry->first == after->snapshot;
    auto held = same ? entry->second.shards.upper_bound(after->rank) : entry->second.shards.begin();
    for (; held != entry->second.shards.end(); ++held) {
      if (!held->second.damaged) {
        return held->second.shard;
      }
    }
  }
  return std::nullopt;
}

uint64_t Tier::used_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [snapshot, entry] : inventory_) {
    for (const auto& [rank, held] : entry.shards) {
      bytes += held.shard.bytes;
    }
  }
  return bytes;
}

// A disk that was carried here from another cluster is kept, and told to nobody.
bool Tier::IsOurs(const Entry& entry) const {
  const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(entry.record);
  return record.ok() && (control_->cluster().IsZero() || record->cluster == control_->cluster());
}

void Tier::WriteInventory(pb::JoinRequest* request) const {
  for (const auto& [snapshot, entry] : inventory_) {
    if (dropping_.contains(snapshot)) {
      continue;  // placement wants it gone
    }
    bool any = false;
    for (const auto& [rank, held] : entry.shards) {
      if (held.damaged || !IsOurs(entry)) {
        continue;
      }
      any = true;
      pb::PersistedShard* out = request->add_persisted();
      out->set_complete(entry.complete);
      pb::HeldObject* object = out->mutable_object();
      WriteShardId(held.shard.shard, object->mutable_shard());
      object->set_root(DigestBytes(held.shard.root));
      object->set_bytes(held.shard.bytes);
      object->set_layout_bytes(held.shard.layout_bytes);
      object->set_token(held.shard.token.ToBytes());
    }
    if (any) {
      request->add_persisted_records(entry.record);
    }
  }
}

void Tier::WriteState(pb::TierState* state) {
  if (store_ == nullptr) {
    return;  // nothing is wrong with a server that was given none
  }
  bool silent = false;
  state->set_trouble(TextField(Trouble(&silent)));
  if (!listed_ && state->trouble().empty()) {
    state->set_trouble(fmt::format("the disk below {} is still being read", store_->place()));
  }
  state->set_unread(!listed_);
  const PersistState now = store_->state();
  state->set_used_bytes(now.used_bytes);
  state->set_free_bytes(now.free_bytes);
}

// How long operations wait and the disk answered none of their steps.
Duration Tier::SilentFor() {
  const uint64_t progress = store_->state().progress + activity_->ended;
  const TimePoint now = seams_.loop->Now();
  if (activity_->begun == activity_->ended || progress != progress_) {
    progress_ = progress;
    progress_at_ = now;
  }
  return now - progress_at_;
}

std::string Tier::Trouble(bool* silent) {
  GEMEL_CHECK(store_ != nullptr);
  const Duration silence = SilentFor();
  *silent = silence >= kPersistSilenceMax;
  if (*silent) {
    return fmt::format(
        "disk below {} has not answered for {} s. Nothing is persisted until it does; saves in "
        "memory go on. Look at the machine's log, replace the disk, or give the server another "
        "--persist-dir",
        store_->place(), silence / 1s);
  }
  return store_->state().trouble;
}

void Tier::TellTrouble() {
  bool silent = false;
  const std::string text = Trouble(&silent);
  const std::string kind = silent ? "silent" : text;  // the seconds are no change
  if (kind == told_trouble_) {
    return;
  }
  told_trouble_ = kind;
  if (kind.empty()) {
    seams_.events->Emit(Severity::kInfo, "tier_recovered",
                        fmt::format("the disk below {} answers again", store_->place()));
  } else {
    seams_.events->Emit(Severity::kWarning, "tier_trouble", text);
  }
}

void Tier::SetGauges() {
  const PersistState state = store_->state();
  int64_t shards = 0;
  for (const auto& [snapshot, entry] : inventory_) {
    shards += static_cast<int64_t>(entry.shards.size());
  }
  seams_.metrics->Gauge("gemel_persisted_shards", "Shards on this server's disk.").Set(shards);
  seams_.metrics->Gauge("gemel_persist_used_bytes", "Bytes of persisted shards.")
      .Set(static_cast<int64_t>(state.used_bytes));
  seams_.metrics->Gauge("gemel_persist_free_bytes", "Bytes free on the persistent tier's disk.")
      .Set(static_cast<int64_t>(std::min<uint64_t>(state.free_bytes, INT64_MAX)));
  seams_.metrics->Gauge("gemel_persist_trouble", "1 while the persistent tier is in trouble.")
      .Set(told_trouble_.empty() ? 0 : 1);
}

}  // namespace gemel
