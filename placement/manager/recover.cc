// SPDX-License-Identifier: Apache-2.0
//
// Recovery from servers: a lost MetaStore is rebuilt from what the servers report when they join:
// commit records, epochs, generations, the last members they have seen. It waits for a majority of
// the union of last members, or with accept_loss goes on with whoever came; the rest has
// recover_settle to come too. The new generation and its epochs are above all that were reported
// (amendment 7), and the cluster serves once a majority has it.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "placement/manager/core.h"
#include "placement/manager/parts.h"

namespace gemel {
namespace {

constexpr Duration kStoreRetry = 200ms;

}  // namespace

absl::Status PlacementCore::CheckRecoverable(const pb::JoinRequest& request) const {
  GEMEL_ASSIGN_OR_RETURN(const ServerId id, ServerId::FromBytes(request.caller().server_id()));
  if (request.caller().cluster_id().empty()) {
    return error::Unavailable(
        "server {} belongs to no cluster yet; it may join once recovery from the others is done",
        id.ToShort());
  }
  GEMEL_ASSIGN_OR_RETURN(const ClusterId cluster,
                         ClusterId::FromBytes(request.caller().cluster_id()));
  if (cluster.IsZero()) {
    return error::InvalidArgument("server {} names a cluster id of zero", id.ToShort());
  }
  bool in_range = request.generation() <= model::kCounterMax && request.caller().term() < kTermMax;
  for (const pb::EpochSeen& seen : request.epochs()) {
    in_range = in_range && model::IsEpochInRange(FromProto(seen.epoch()));
  }
  if (!in_range) {
    return error::InvalidArgument("server {} has seen a generation, an epoch or a term above {}",
                                  id.ToShort(), kTermMax);
  }
  if (!recovered_.empty() && cluster != recovered_cluster_) {
    return error::FailedPrecondition(
        "server {} belongs to cluster {}, recovery is under way for cluster {}; point it at its "
        "own placement",
        id.ToShort(), cluster.ToHex(), recovered_cluster_.ToHex());
  }
  return absl::OkStatus();
}

// The servers that reported, and all that these knew of.
std::set<ServerId> PlacementCore::LastMembers() const {
  std::set<ServerId> members;
  for (const auto& [id, request] : recovered_) {
    members.insert(id);
    for (const std::string& raw : request.last_members()) {
      const absl::StatusOr<ServerId> last = ServerId::FromBytes(raw);
      if (last.ok()) {
        members.insert(*last);
      }
    }
  }
  return members;
}

// A majority is enough to go on; those that are merely slower are waited for a while.
bool PlacementCore::HeardEnough(std::string* waiting_for) const {
  const std::set<ServerId> members = LastMembers();
  const size_t heard = recovered_.size();
  GEMEL_CHECK_LE(heard, members.size());
  const size_t majority = members.size() / 2 + 1;
  const bool settled = loop_->Now() >= Add(recovery_began_, options_.recover_settle);
  const bool enough = heard >= majority || (options_.accept_loss && heard > 0);
  if (enough && (settled || heard == members.size())) {
    return true;
  }
  if (enough) {
    *waiting_for =
        fmt::format("heard {} of {} last members, enough; the others are waited for {:.0f} ms",
                    heard, members.size(), Milliseconds(options_.recover_settle));
    return false;
  }
  *waiting_for = fmt::format(
      "heard {} of {} last members, {} are needed; start the others, or give --accept-loss to go "
      "on without them",
      heard, members.size(), heard == 0 ? 1 : majority);
  return false;
}

// Jobs, epochs, tokens and snapshots as far as the servers know them.
void PlacementCore::CollectRecovered(std::map<std::string, JobRecord>* jobs,
                                     std::map<std::string, std::string>* puts,
                                     uint64_t* generation) const {
  const auto saw = [&](const std::string& name, const EpochId& epoch, uint64_t sequence) {
    JobRecord& job = (*jobs)[name];
    job.epoch = std::max(job.epoch, epoch);
    job.next_sequence = std::max(job.next_sequence, sequence + 1);
    *generation = std::max(*generation, epoch.generation);
  };
  for (const auto& [id, request] : recovered_) {
    *generation = std::max(*generation, request.generation());
    for (const pb::EpochSeen& seen : request.epochs()) {
      if (model::CheckJobName(seen.job()).ok()) {
        saw(seen.job(), FromProto(seen.epoch()), 0);
      }
    }
    for (const pb::HeldObject& object : request.objects()) {
      const auto held = HeldFromProto(object);
      if (!held.ok()) {
        continue;
      }
      const SnapshotId& snapshot = held->first.snapshot;
      saw(snapshot.job, snapshot.epoch, snapshot.sequence);
      if (!held->second.token.IsZero()) {
        (*puts)[TokenKey(snapshot.job, held->second.token)] =
            EncodeStored(TokenRecord{snapshot.epoch});
      }
    }
    for (const pb::PersistedShard& persisted : request.persisted()) {
      const auto held = HeldFromProto(persisted.object());
      if (held.ok()) {
        const SnapshotId& snapshot = held->first.snapshot;
        saw(snapshot.job, snapshot.epoch, snapshot.sequence);
      }
    }
    for (const std::string& bytes : request.commit_records()) {
      const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(bytes);
      if (!record.ok() || record->cluster != recovered_cluster_) {
        continue;
      }
      const SnapshotId& snapshot = record->snapshot;
      saw(snapshot.job, snapshot.epoch, snapshot.sequence);
      (*puts)[StoredSnapshotKey(snapshot.job, snapshot.epoch, snapshot.sequence)] = bytes;
      JobRecord& job = (*jobs)[snapshot.job];
      if (OrderOf(snapshot.epoch, snapshot.sequence) >
          OrderOf(job.latest_epoch, job.latest_sequence)) {
        job.latest_epoch = snapshot.epoch;
        job.latest_sequence = snapshot.sequence;
      }
    }
  }
  CollectPersisted(jobs, puts);
}

// PERSISTED was durable where any disk says so, and where the disks together have every shard.
void PlacementCore::CollectPersisted(std::map<std::string, JobRecord>* jobs,
                                     std::map<std::string, std::string>* puts) const {
  std::map<SnapshotKey, std::set<uint32_t>> ranks;
  std::set<SnapshotKey> marked;
  std::map<SnapshotKey, std::string> records;
  GEMEL_CHECK(!recovered_.empty());
  for (const auto& [id, request] : recovered_) {
    const absl::StatusOr<DiskInventory> disk = ReadDiskInventory(request);
    if (!disk.ok()) {
      continue;
    }
    marked.insert(disk->marked.begin(), disk->marked.end());
    for (const auto& [key, shards] : disk->shards) {
      for (const auto& [rank, copy] : shards) {
        ranks[key].insert(rank);
        if (!copy.token.IsZero()) {
          (*puts)[TokenKey(key.job, copy.token)] = EncodeStored(TokenRecord{key.epoch});
        }
      }
    }
    for (const std::string& bytes : request.persisted_records()) {
      const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(bytes);
      if (record.ok() && record->cluster == recovered_cluster_) {
        records[KeyOf(record->snapshot)] = bytes;
      }
    }
  }
  for (const auto& [key, bytes] : records) {
    const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(bytes);
    if (!marked.contains(key) && ranks[key].size() < record->world_size) {
      continue;
    }
    JobRecord& job = (*jobs)[key.job];
    job.epoch = std::max(job.epoch, key.epoch);
    job.next_sequence = std::max(job.next_sequence, key.sequence + 1);
    if (OrderOf(key.epoch, key.sequence) > OrderOf(job.persisted_epoch, job.persisted_sequence)) {
      job.persisted_epoch = key.epoch;
      job.persisted_sequence = key.sequence;
    }
    (*puts)[PersistedKey(key.job, key.epoch, key.sequence)] = bytes;
  }
}

// What was just written. It cannot be written again, so a store that does not answer is asked
// again.
Task<absl::Status> PlacementCore::LoadRecovered() {
  while (!stopping_) {
    absl::Status loaded = co_await LoadJobs();
    if (loaded.ok()) {
      loaded = co_await LoadTokens();
    }
    if (loaded.ok()) {
      loaded = co_await LoadSnapshots();
    }
    if (loaded.ok()) {
      loaded = co_await LoadPersisted();
    }
    if (loaded.code() != absl::StatusCode::kUnavailable) {
      co_return loaded;
    }
    Emit(Severity::kWarning, "store_refused", ToText(loaded));
    co_await loop_->Sleep(kStoreRetry);
  }
  co_return error::Cancelled("placement is stopping");
}

// One transaction of a recovery: the cluster's key, by compare-and-set, and `part`. So two managers
// that recover into one store do not mix.
Task<absl::Status> PlacementCore::WriteRecovered(ClusterRecord record, Txn part) {
  GEMEL_CHECK(part.compares.empty());
  Txn txn;
  txn.compares.push_back({.key = kClusterKey, .version = std::nullopt});
  if (cluster_version_ != 0) {
    txn.compares.back().version = cluster_version_;
  }
  txn.puts.emplace_back(kClusterKey, EncodeStored(record));
  std::move(part.puts.begin(), part.puts.end(), std::back_inserter(txn.puts));
  txn.deletes = std::move(part.deletes);
  const absl::StatusOr<uint64_t> version = co_await Write(std::move(txn));
  GEMEL_CO_RETURN_IF_ERROR(version.status());
  cluster_version_ = *version;
  co_return absl::OkStatus();
}

// What a recovery that was cut short has left, so that nothing of it passes for this one's.
Task<absl::Status> PlacementCore::ForgetUnfinishedRecovery() {
  GEMEL_CHECK(cluster_version_ != 0 && unfinished_.IsUnfinishedRecovery());
  const absl::StatusOr<std::vector<KeyValue>> listed = co_await seams_.store->List(std::string());
  GEMEL_CO_RETURN_IF_ERROR(listed.status());
  Txn gone;
  for (const auto& [key, value] : *listed) {
    if (key != kClusterKey && key != kLeaderKey && key != kBeatKey) {
      gone.deletes.push_back(key);
    }
  }
  for (Txn& part : InParts(std::move(gone))) {
    unfinished_.writes += 1;
    const absl::Status written = co_await WriteRecovered(unfinished_, std::move(part));
    GEMEL_CO_RETURN_IF_ERROR(written);
  }
  co_return absl::OkStatus();
}

// In one transaction where it fits. Otherwise in several: until the last, which writes the
// cluster's record, the store holds an unfinished recovery and no cluster.
Task<absl::Status> PlacementCore::WriteAllRecovered(Txn all) {
  std::vector<Txn> parts = InParts(std::move(all));
  if (parts.empty()) {
    parts.emplace_back();
  }
  if (parts.size() > 1 || cluster_version_ != 0) {
    unfinished_ = {.cluster = ClusterId::Draw(seams_.random), .writes = 1};
    const absl::Status begun = co_await WriteRecovered(unfinished_, Txn());
    GEMEL_CO_RETURN_IF_ERROR(begun);
    const absl::Status clean = co_await ForgetUnfinishedRecovery();
    GEMEL_CO_RETURN_IF_ERROR(clean);
  }
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    unfinished_.writes += 1;
    const absl::Status written = co_await WriteRecovered(unfinished_, std::move(parts[i]));
    GEMEL_CO_RETURN_IF_ERROR(written);
  }
  co_return co_await WriteRecovered(cluster_, std::move(parts.back()));
}

Task<absl::Status> PlacementCore::FinishRecovery() {
  std::map<std::string, JobRecord> jobs;
  std::map<std::string, std::string> puts;
  uint64_t generation = 0;
  CollectRecovered(&jobs, &puts, &generation);
  GEMEL_CHECK(!recovered_.empty() && !recovered_cluster_.IsZero());
  cluster_.cluster = recovered_cluster_;
  cluster_.generation = generation + 1;
  cluster_.map_version = 1;
  cluster_.writes = 1;
  uint64_t term = 0;
  for (const auto& [id, request] : recovered_) {
    cluster_.map_version += request.last_members_size() > 0 ? 1 : 0;
    term = std::max(term, request.caller().term());
  }
  GEMEL_CO_RETURN_IF_ERROR(co_await leadership_->RaiseTerm(term + 1));
  Txn all;
  for (auto& [name, job] : jobs) {
    // No epoch that ran goes on, not even one that only servers not heard have seen.
    job.epoch.generation = cluster_.generation;
    job.epoch_opened = true;
    all.puts.emplace_back(JobKey(name), EncodeStored(job));
  }
  for (const auto& [key, value] : puts) {
    all.puts.emplace_back(key, value);
  }
  const absl::Status written = co_await WriteAllRecovered(std::move(all));
  GEMEL_CO_RETURN_IF_ERROR(written);
  const absl::Status loaded = co_await LoadRecovered();
  GEMEL_CO_RETURN_IF_ERROR(loaded);
  recovery_majority_ = options_.accept_loss ? 1 : LastMembers().size() / 2 + 1;
  awaited_ = LastMembers();
  recovered_.clear();
  recovering_ = false;
  started_ = loop_->Now();
  Emit(Severity::kWarning, "recovered", Describe());
  co_return absl::OkStatus();
}

// Keeps the report; OK once the recovery is done and the server may join for good.
Task<absl::Status> PlacementCore::TakeForRecovery(pb::JoinRequest request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckRecoverable(request));
  GEMEL_CO_ASSIGN_OR_RETURN(const ServerId id, ServerId::FromBytes(request.caller().server_id()));
  GEMEL_CO_ASSIGN_OR_RETURN(recovered_cluster_,
                            ClusterId::FromBytes(request.caller().cluster_id()));
  recovered_[id] = std::move(request);
  std::string waiting_for;
  if (finishing_ || !HeardEnough(&waiting_for)) {
    if (!waiting_for.empty() && waiting_for != recovery_waits_for_) {
      recovery_waits_for_ = waiting_for;
      Emit(Severity::kWarning, "recovery_waits", waiting_for);
    }
    co_return error::Unavailable("placement is recovering from its servers: {}", waiting_for);
  }
  finishing_ = true;
  const absl::Status finished = co_await FinishRecovery();
  finishing_ = false;
  co_return finished;
}

}  // namespace gemel
