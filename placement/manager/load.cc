// SPDX-License-Identifier: Apache-2.0
//
// Start: everything that the MetaStore holds, or the birth of a cluster in an empty one.
#include <algorithm>
#include <limits>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"

namespace gemel {
namespace {

constexpr auto kStatusCodeMax = static_cast<uint32_t>(absl::StatusCode::kUnauthenticated);

// DataLoss unless a value is one that a manager writes under that key: what is believed here is
// indexed, counted and made into keys later on.
absl::Status CheckStored(bool sound, const std::string& key) {
  if (sound) {
    return absl::OkStatus();
  }
  return error::DataLoss(
      "key '{}' of the placement store holds what no manager writes there: the store is damaged; "
      "put it aside and rebuild it with `gemel placement recover --from-servers`",
      key);
}

bool IsSound(const JobRecord& record) {
  return model::IsEpochInRange(record.epoch) && record.next_sequence > 0 &&
         record.next_sequence <= model::kCounterMax + 1 &&
         record.latest_sequence < record.next_sequence;
}

bool IsSound(const OpenRecord& record) {
  const SnapshotId& id = record.snapshot;
  return model::CheckJobName(id.job).ok() && model::CheckSnapshotName(id.name).ok() &&
         !id.epoch.IsNone() && id.sequence > 0 && record.world_size > 0 &&
         record.world_size <= model::kWorldSizeMax && record.copies > 0 &&
         record.copies <= model::kCopiesMax && record.min_copies > 0 &&
         record.min_copies <= record.copies && record.level > 0 &&
         record.deadline_ms <= std::numeric_limits<uint32_t>::max();
}

bool IsSound(const EndedSave& save) {
  return model::CheckSnapshotName(save.name).ok() && !save.epoch.IsNone() && save.sequence > 0 &&
         save.committed == (save.code == 0) && save.code <= kStatusCodeMax;
}

}  // namespace

Task<absl::Status> PlacementCore::Load() {
  absl::StatusOr<std::optional<Versioned>> found = co_await seams_.store->Get(kClusterKey);
  GEMEL_CO_RETURN_IF_ERROR(found.status());
  bool birth = !found->has_value();
  if (!birth) {
    GEMEL_CO_ASSIGN_OR_RETURN(cluster_, DecodeStored<ClusterRecord>(kClusterKey, (*found)->value));
    cluster_version_ = (*found)->version;
    birth = cluster_.IsUnfinishedRecovery();
  }
  if (birth && cluster_version_ != 0 && !options_.recover_from_servers) {
    co_return error::FailedPrecondition(
        "{} holds a recovery that did not come to its end: start with --recover-from-servers again",
        seams_.store->name());
  }
  if (!birth && options_.recover_from_servers && options_.shared_store) {
    Emit(Severity::kInfo, "nothing_to_recover",
         "the store holds a cluster: another one recovered it");
  } else if (!birth && options_.recover_from_servers) {
    co_return error::FailedPrecondition(
        "{} already holds a cluster; recovery from servers needs an empty one: start without "
        "--recover-from-servers, or give another --dir",
        seams_.store->name());
  }
  if (birth && options_.recover_from_servers) {
    cluster_ = ClusterRecord();
    recovering_ = true;
    recovery_began_ = loop_->Now();
    Emit(Severity::kWarning, "recovery_began", "placement listens for servers to recover from");
    co_return absl::OkStatus();
  }
  if (birth) {
    GEMEL_CO_RETURN_IF_ERROR(co_await WriteBirth());
  } else {
    GEMEL_CO_RETURN_IF_ERROR(CheckStored(!cluster_.cluster.IsZero() && cluster_.generation > 0 &&
                                             cluster_.generation <= model::kCounterMax + 1,
                                         kClusterKey));
    GEMEL_CO_RETURN_IF_ERROR(co_await LoadMembers());
    GEMEL_CO_RETURN_IF_ERROR(co_await LoadDrains());
    GEMEL_CO_RETURN_IF_ERROR(co_await LoadJobs());
    GEMEL_CO_RETURN_IF_ERROR(co_await LoadEnded());
    GEMEL_CO_RETURN_IF_ERROR(co_await LoadTokens());
    GEMEL_CO_RETURN_IF_ERROR(co_await LoadOpens());
    GEMEL_CO_RETURN_IF_ERROR(co_await LoadSnapshots());
    GEMEL_CO_RETURN_IF_ERROR(co_await LoadPersisted());
    GEMEL_CO_RETURN_IF_ERROR(co_await LoadRestores());
  }
  Reach(CrashPoint::kStoreLoaded);
  Emit(Severity::kInfo, birth ? "cluster_born" : "placement_loaded", Describe());
  co_return absl::OkStatus();
}

// The birth of a cluster.
Task<absl::Status> PlacementCore::WriteBirth() {
  ClusterRecord next;
  next.cluster = ClusterId::Draw(seams_.random);
  next.generation = 1;
  next.map_version = 1;
  next.writes = 1;
  GEMEL_CHECK_EQ(cluster_version_, 0U);
  Txn txn;
  txn.compares.push_back({.key = kClusterKey, .version = std::nullopt});
  txn.puts.emplace_back(kClusterKey, EncodeStored(next));
  const absl::StatusOr<uint64_t> version = co_await Write(std::move(txn));
  GEMEL_CO_RETURN_IF_ERROR(version.status());
  cluster_version_ = *version;
  cluster_ = next;
  co_return absl::OkStatus();
}

Task<absl::Status> PlacementCore::LoadMembers() {
  const absl::StatusOr<std::vector<KeyValue>> listed = co_await seams_.store->List(kMemberPrefix);
  GEMEL_CO_RETURN_IF_ERROR(listed.status());
  for (const auto& [key, value] : *listed) {
    auto member = std::make_unique<MemberEntry>(loop_);
    GEMEL_CO_ASSIGN_OR_RETURN(member->record, DecodeStored<MemberRecord>(key, value.value));
    GEMEL_CO_RETURN_IF_ERROR(CheckStored(MemberKey(member->record.id) == key, key));
    member->version = value.version;
    member->dead_since = loop_->Now();
    const ServerId id = member->record.id;
    members_.emplace(id, std::move(member));
  }
  co_return absl::OkStatus();
}

absl::StatusOr<Job*> PlacementCore::JobOfKey(const std::string& key, std::string_view prefix) {
  const std::string rest = key.substr(prefix.size());
  Job* job = FindJob(rest.substr(0, rest.find('/')));
  if (job == nullptr) {
    return error::DataLoss("key '{}' of the placement store belongs to no job there", key);
  }
  return job;
}

Task<absl::Status> PlacementCore::LoadJobs() {
  const absl::StatusOr<std::vector<KeyValue>> listed = co_await seams_.store->List(kJobPrefix);
  GEMEL_CO_RETURN_IF_ERROR(listed.status());
  for (const auto& [key, value] : *listed) {
    const std::string name = key.substr(std::string_view(kJobPrefix).size());
    auto job = std::make_unique<Job>(loop_, name);
    GEMEL_CO_ASSIGN_OR_RETURN(job->record, DecodeStored<JobRecord>(key, value.value));
    GEMEL_CO_RETURN_IF_ERROR(CheckStored(IsSound(job->record) && model::CheckJobName(name).ok() &&
                                             job->record.epoch.generation <= cluster_.generation,
                                         key));
    job->version = value.version;
    jobs_.emplace(name, std::move(job));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> PlacementCore::LoadEnded() {
  const absl::StatusOr<std::vector<KeyValue>> listed = co_await seams_.store->List(kEndedPrefix);
  GEMEL_CO_RETURN_IF_ERROR(listed.status());
  for (const auto& [key, value] : *listed) {
    GEMEL_CO_ASSIGN_OR_RETURN(Job * job, JobOfKey(key, kEndedPrefix));
    GEMEL_CO_ASSIGN_OR_RETURN(const EndedRecord record,
                              DecodeStored<EndedRecord>(key, value.value));
    GEMEL_CO_RETURN_IF_ERROR(CheckStored(EndedKey(job->name) == key, key));
    for (const EndedSave& save : record.saves) {
      GEMEL_CO_RETURN_IF_ERROR(CheckStored(IsSound(save), key));
      if (save.epoch == job->record.epoch) {
        job->attempt_of_name[save.name] = std::max(job->attempt_of_name[save.name], save.attempt);
      }
      Remember(job, EndedOf(*job, save));
    }
  }
  co_return absl::OkStatus();
}

Task<absl::Status> PlacementCore::LoadTokens() {
  const absl::StatusOr<std::vector<KeyValue>> listed = co_await seams_.store->List(kTokenPrefix);
  GEMEL_CO_RETURN_IF_ERROR(listed.status());
  for (const auto& [key, value] : *listed) {
    GEMEL_CO_ASSIGN_OR_RETURN(Job * job, JobOfKey(key, kTokenPrefix));
    GEMEL_CO_ASSIGN_OR_RETURN(const EpochToken token,
                              EpochToken::FromHex(key.substr(key.rfind('/') + 1)));
    GEMEL_CO_ASSIGN_OR_RETURN(const TokenRecord record,
                              DecodeStored<TokenRecord>(key, value.value));
    job->tokens[token] = record.epoch;
  }
  co_return absl::OkStatus();
}

Task<absl::Status> PlacementCore::LoadOpens() {
  const absl::StatusOr<std::vector<KeyValue>> listed = co_await seams_.store->List(kOpenPrefix);
  GEMEL_CO_RETURN_IF_ERROR(listed.status());
  for (const auto& [key, value] : *listed) {
    GEMEL_CO_ASSIGN_OR_RETURN(Job * job, JobOfKey(key, kOpenPrefix));
    GEMEL_CO_ASSIGN_OR_RETURN(OpenRecord record, DecodeStored<OpenRecord>(key, value.value));
    const SnapshotId id = record.snapshot;
    GEMEL_CO_RETURN_IF_ERROR(CheckStored(IsSound(record) && OpenKey(id.job, id.sequence) == key &&
                                             job->name == id.job && id.epoch <= job->record.epoch &&
                                             id.sequence < job->record.next_sequence,
                                         key));
    std::shared_ptr<Attempt> attempt = MakeAttempt(std::move(record), value.version);
    attempt->recovered = true;
    job->attempt_of_name[id.name] = std::max(job->attempt_of_name[id.name], id.attempt);
    job->attempts[id.sequence] = std::move(attempt);
  }
  co_return absl::OkStatus();
}

// What a commit record under that key says.
absl::StatusOr<Committed> PlacementCore::CommittedOf(
    const std::string& key, const std::string& value,
    std::string (*key_of)(const std::string&, const EpochId&, uint64_t)) const {
  const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(value);
  if (!record.ok()) {
    return error::DataLoss("key '{}' of the placement store: {}", key, MessageOf(record.status()));
  }
  const SnapshotId& id = record->snapshot;
  GEMEL_RETURN_IF_ERROR(
      CheckStored(key_of(id.job, id.epoch, id.sequence) == key && record->copies > 0, key));
  Committed snapshot;
  snapshot.record = *record;
  snapshot.encoded = value;
  return snapshot;
}

Task<absl::Status> PlacementCore::LoadSnapshots() {
  const absl::StatusOr<std::vector<KeyValue>> listed = co_await seams_.store->List(kSnapshotPrefix);
  GEMEL_CO_RETURN_IF_ERROR(listed.status());
  for (const auto& [key, value] : *listed) {
    GEMEL_CO_ASSIGN_OR_RETURN(Job * job, JobOfKey(key, kSnapshotPrefix));
    GEMEL_CO_ASSIGN_OR_RETURN(Committed snapshot,
                              CommittedOf(key, value.value, &StoredSnapshotKey));
    const SnapshotId id = snapshot.record.snapshot;
    if (id.epoch == job->record.epoch) {
      uint32_t& attempt = job->attempt_of_name[id.name];
      attempt = std::max(attempt, id.attempt);
    }
    job->snapshots.emplace(OrderOf(id.epoch, id.sequence), std::move(snapshot));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> PlacementCore::LoadRestores() {
  const absl::StatusOr<std::vector<KeyValue>> listed = co_await seams_.store->List(kRestorePrefix);
  GEMEL_CO_RETURN_IF_ERROR(listed.status());
  for (const auto& [key, value] : *listed) {
    GEMEL_CO_ASSIGN_OR_RETURN(Job * job, JobOfKey(key, kRestorePrefix));
    RestoreState restore;
    GEMEL_CO_ASSIGN_OR_RETURN(restore.record, DecodeStored<RestoreRecord>(key, value.value));
    const RestoreRecord& record = restore.record;
    GEMEL_CO_RETURN_IF_ERROR(CheckStored(RestoreKey(job->name) == key && record.world_size > 0 &&
                                             record.world_size <= model::kWorldSizeMax &&
                                             record.verified.size() == record.world_size,
                                         key));
    restore.version = value.version;
    job->restore = std::move(restore);
  }
  co_return absl::OkStatus();
}

}  // namespace gemel
