// SPDX-License-Identifier: Apache-2.0
//
// Recovery from servers: a lost MetaStore is rebuilt from what the servers report when they join:
// commit records, epochs, generations, the last members they have seen. It waits for a majority of
// the union of last members, or with accept_loss goes on with whoever came; the rest has
// recover_settle to come too. The new generation and its epochs are above all that were reported
// (amendment 7), and the cluster serves once a majority has it.
#include <algorithm>
#include <span>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"
#include "placement/manager/parts.h"

namespace gemel {
namespace {

constexpr Duration kStoreRetry = 200ms;
constexpr size_t kLatePerWrite = 64;

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

// A majority is enough to go on; others are listened for a while, as they may know of more members.
bool PlacementCore::HeardEnough(std::string* waiting_for) const {
  const std::set<ServerId> members = LastMembers();
  const size_t heard = recovered_.size();
  GEMEL_CHECK_LE(heard, members.size());
  const size_t majority = members.size() / 2 + 1;
  const bool settled = loop_->Now() >= Add(recovery_began_, options_.recover_settle);
  const bool enough = heard >= majority || (options_.accept_loss && heard > 0);
  if (enough && settled) {
    return true;
  }
  if (enough) {
    *waiting_for =
        fmt::format("heard {} of {} last members, enough; others are listened for {:.0f} ms", heard,
                    members.size(), Milliseconds(options_.recover_settle));
    return false;
  }
  *waiting_for = fmt::format(
      "heard {} of {} last members, {} are needed; start the others, or give --accept-loss to go "
      "on without them",
      heard, members.size(), heard == 0 ? 1 : majority);
  return false;
}

// What servers know, put together.
struct PlacementCore::Recovered {
  ClusterId cluster;
  uint64_t generation = 0;
  std::map<std::string, JobRecord> jobs;
  std::map<std::string, std::string> puts;  // members, tokens, snapshots
  // Of the disks.
  std::map<SnapshotKey, std::set<uint32_t>> ranks;
  std::set<SnapshotKey> marked;
  std::map<SnapshotKey, std::string> records;

  void Saw(const std::string& name, const EpochId& epoch, uint64_t sequence) {
    JobRecord& job = jobs[name];
    job.epoch = std::max(job.epoch, epoch);
    job.next_sequence = std::max(job.next_sequence, sequence + 1);
    generation = std::max(generation, epoch.generation);
  }

  void SawToken(const std::string& name, const EpochToken& token, const EpochId& epoch) {
    if (!token.IsZero()) {
      puts[TokenKey(name, token)] = EncodeStored(TokenRecord{epoch});
    }
  }

  void Persisted();
};

// Jobs, epochs, tokens and snapshots as far as this server knows them.
void PlacementCore::Collect(const pb::JoinRequest& request, Recovered* known) const {
  known->generation = std::max(known->generation, request.generation());
  for (const pb::EpochSeen& seen : request.epochs()) {
    const EpochId epoch = FromProto(seen.epoch());
    if (model::CheckJobName(seen.job()).ok() && model::IsEpochInRange(epoch)) {
      known->Saw(seen.job(), epoch, 0);
    }
  }
  for (const pb::HeldObject& object : request.objects()) {
    const auto held = HeldFromProto(object);
    if (held.ok()) {
      const SnapshotId& snapshot = held->first.snapshot;
      known->Saw(snapshot.job, snapshot.epoch, snapshot.sequence);
      known->SawToken(snapshot.job, held->second.token, snapshot.epoch);
    }
  }
  for (const std::string& bytes : request.commit_records()) {
    const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(bytes);
    if (!record.ok() || record->cluster != known->cluster) {
      continue;
    }
    const SnapshotId& snapshot = record->snapshot;
    known->Saw(snapshot.job, snapshot.epoch, snapshot.sequence);
    known->puts[StoredSnapshotKey(snapshot.job, snapshot.epoch, snapshot.sequence)] = bytes;
    JobRecord& job = known->jobs[snapshot.job];
    if (OrderOf(snapshot.epoch, snapshot.sequence) >
        OrderOf(job.latest_epoch, job.latest_sequence)) {
      job.latest_epoch = snapshot.epoch;
      job.latest_sequence = snapshot.sequence;
    }
  }
  CollectDisk(request, known);
}

void PlacementCore::CollectDisk(const pb::JoinRequest& request, Recovered* known) const {
  const absl::StatusOr<DiskInventory> disk = ReadDiskInventory(request);
  if (!disk.ok()) {
    return;
  }
  known->marked.insert(disk->marked.begin(), disk->marked.end());
  for (const auto& [key, shards] : disk->shards) {
    known->Saw(key.job, key.epoch, key.sequence);
    for (const auto& [rank, copy] : shards) {
      known->ranks[key].insert(rank);
      known->SawToken(key.job, copy.token, key.epoch);
    }
  }
  for (const std::string& bytes : request.persisted_records()) {
    const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(bytes);
    if (record.ok() && record->cluster == known->cluster) {
      known->records[KeyOf(record->snapshot)] = bytes;
    }
  }
}

// PERSISTED was durable where any disk says so, and where the disks together have every shard.
void PlacementCore::Recovered::Persisted() {
  for (const auto& [key, bytes] : records) {
    const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(bytes);
    GEMEL_CHECK(record.ok()) << key.job;
    if (!marked.contains(key) && ranks[key].size() < record->world_size) {
      continue;
    }
    Saw(key.job, key.epoch, key.sequence);
    JobRecord& job = jobs[key.job];
    if (OrderOf(key.epoch, key.sequence) > OrderOf(job.persisted_epoch, job.persisted_sequence)) {
      job.persisted_epoch = key.epoch;
      job.persisted_sequence = key.sequence;
    }
    puts[PersistedKey(key.job, key.epoch, key.sequence)] = bytes;
  }
}

// All last members are waited for as after any restart. Of one that was not heard nothing is known
// but its id.
void PlacementCore::CollectMembers(Recovered* known) const {
  GEMEL_CHECK(!recovered_.empty());
  for (const ServerId& id : LastMembers()) {
    MemberRecord member;
    member.id = id;
    member.name = id.ToShort();
    member.domain = "unknown";
    const auto heard = recovered_.find(id);
    if (heard != recovered_.end()) {
      const absl::StatusOr<MemberRecord> record = CheckJoin(heard->second);
      member = record.ok() ? *record : member;
    }
    member.recovered_generation = cluster_.generation;
    known->puts[MemberKey(id)] = EncodeStored(member);
  }
}

// What was just written. It cannot be written again, so a store that does not answer is asked
// again.
Task<absl::Status> PlacementCore::LoadRecovered() {
  while (!stopping_) {
    absl::Status loaded = co_await LoadMembers();
    if (loaded.ok()) {
      loaded = co_await LoadJobs();
    }
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
  GEMEL_CHECK(!recovered_.empty() && !recovered_cluster_.IsZero());
  Recovered known{.cluster = recovered_cluster_};
  uint64_t term = 0;
  cluster_ = {.cluster = recovered_cluster_, .map_version = 1, .writes = 1};
  for (const auto& [id, request] : recovered_) {
    Collect(request, &known);
    cluster_.map_version += request.last_members_size() > 0 ? 1 : 0;
    term = std::max(term, request.caller().term());
  }
  known.Persisted();
  cluster_.generation = known.generation + 1;
  const size_t majority = options_.accept_loss ? 1 : LastMembers().size() / 2 + 1;
  cluster_.recovery_majority = static_cast<uint32_t>(majority);
  CollectMembers(&known);
  GEMEL_CO_RETURN_IF_ERROR(co_await leadership_->RaiseTerm(term + 1));
  Txn all;
  for (auto& [name, job] : known.jobs) {
    // No epoch that ran goes on, not even one that only servers not heard have seen.
    job.epoch.generation = cluster_.generation;
    job.epoch_opened = true;
    all.puts.emplace_back(JobKey(name), EncodeStored(job));
  }
  for (const auto& [key, value] : known.puts) {
    all.puts.emplace_back(key, value);
  }
  const absl::Status written = co_await WriteAllRecovered(std::move(all));
  GEMEL_CO_RETURN_IF_ERROR(written);
  const absl::Status loaded = co_await LoadRecovered();
  GEMEL_CO_RETURN_IF_ERROR(loaded);
  recovered_.clear();
  recovering_ = false;
  ExpectMembers();
  Emit(Severity::kWarning, "recovered", Describe());
  co_return absl::OkStatus();
}

// For good: deaths from here on are like any others.
Task<void> PlacementCore::SettleRecovery() {
  const LockHold hold = co_await Lock(&map_lock_);
  if (cluster_.recovery_majority == 0 || LacksGeneration()) {
    co_return;
  }
  GEMEL_CHECK(!recovering_ && cluster_.generation > 1) << cluster_.generation;
  ClusterRecord settled = cluster_;
  settled.recovery_majority = 0;
  settled.writes += 1;
  const absl::Status written = co_await WriteRecovered(settled, Txn());
  if (written.ok()) {
    cluster_ = settled;
  } else {
    Emit(Severity::kWarning, "store_refused", ToText(written));  // until the next heartbeat
  }
}

// A server that the recovery did not hear may keep commits that nobody else knows. They are taken
// in as they would have been then, and retired like others; what a person has removed since is not.
// A recovery that was lost before a majority had its generation may have given the same number: of
// a server that has seen that number, what is newer than all that is known was not retired here,
// nor removed, when nothing of its generation was.
Task<absl::Status> PlacementCore::TakeLate(const pb::JoinRequest* request) {
  if (request->generation() > cluster_.generation || cluster_.generation == 1) {
    co_return absl::OkStatus();
  }
  const bool newest_only = request->generation() == cluster_.generation;
  GEMEL_CO_ASSIGN_OR_RETURN(const MemberRecord record, CheckJoin(*request));
  GEMEL_CO_RETURN_IF_ERROR(CheckNewest(record, request->join()));
  Recovered known{.cluster = cluster_.cluster};
  Collect(*request, &known);
  if (!newest_only) {  // nothing of what was PERSISTED is taken otherwise
    for (const auto& [id, member] : members_) {
      for (const auto& [key, shards] : member->disk) {
        for (const auto& [rank, copy] : shards) {
          known.ranks[key].insert(rank);
        }
      }
    }
    known.Persisted();
  }
  for (const auto& [name, found] : known.jobs) {
    if (found.latest_sequence == 0 && found.persisted_sequence == 0) {
      continue;
    }
    if (!jobs_.contains(name) && jobs_.size() >= kJobsMax) {
      co_return error::ResourceExhausted(
          "server {} keeps commits of job {}, and placement knows {} jobs, the most it takes",
          request->name(), name, jobs_.size());
    }
    jobs_.try_emplace(name, std::make_unique<Job>(loop_, name));
    GEMEL_CO_RETURN_IF_ERROR(co_await TakeLateOf(FindJob(name), &found, &known, newest_only));
  }
  co_return absl::OkStatus();
}

// What is unknown here, newest first. Of what was PERSISTED only what is newer than all that is;
// with `newest_only` (nothing PERSISTED is in `known` then) of the rest, too.
std::vector<Committed> PlacementCore::LateOf(const Job& job, const Recovered& known,
                                             bool newest_only) const {
  std::vector<Committed> late;
  const auto on_disk = OrderOf(job.record.persisted_epoch, job.record.persisted_sequence);
  const auto latest = OrderOf(job.record.latest_epoch, job.record.latest_sequence);
  for (const bool persisted : {false, true}) {
    const std::string below = (persisted ? kPersistedPrefix : kSnapshotPrefix) + job.name + "/";
    for (auto at = known.puts.lower_bound(below);
         at != known.puts.end() && at->first.starts_with(below); ++at) {
      absl::StatusOr<Committed> snapshot =
          CommittedOf(at->first, at->second, persisted ? &PersistedKey : &StoredSnapshotKey);
      GEMEL_CHECK(snapshot.ok()) << at->first;
      const SnapshotId& id = snapshot->record.snapshot;
      const auto order = OrderOf(id.epoch, id.sequence);
      const bool may_be_late =
          order > latest && id.epoch.generation > job.record.removed_generation;
      const bool unknown = persisted
                               ? order > on_disk
                               : !job.snapshots.contains(order) && (!newest_only || may_be_late);
      if (unknown && id.epoch.generation < cluster_.generation) {
        snapshot->persisted = persisted;
        snapshot->told = persisted;
        snapshot->in_memory = !persisted;
        late.push_back(*std::move(snapshot));
      }
    }
  }
  std::sort(late.begin(), late.end(), [](const Committed& a, const Committed& b) {
    const SnapshotKey one = KeyOf(a.record.snapshot);
    const SnapshotKey other = KeyOf(b.record.snapshot);
    return one != other ? one > other : a.persisted < b.persisted;
  });
  return late;
}

// In transactions that each leave what the job's record names: the newest come first.
Task<absl::Status> PlacementCore::TakeLateOf(Job* job, const JobRecord* found,
                                             const Recovered* known, bool newest_only) {
  const LockHold hold = co_await Lock(&job->lock);
  std::vector<Committed> late;
  if (!job->record.removed) {
    late = LateOf(*job, *known, newest_only);
  }
  for (size_t begin = 0; begin < late.size(); begin += kLatePerWrite) {
    const auto part = std::span(late).subspan(begin, std::min(kLatePerWrite, late.size() - begin));
    JobRecord record = job->record;
    if (job->version == 0) {
      record.epoch = {.generation = cluster_.generation, .counter = found->epoch.counter};
      record.epoch_opened = true;
    }
    record.next_sequence = std::max(record.next_sequence, found->next_sequence);
    Txn txn;
    for (const Committed& snapshot : part) {
      const SnapshotId& id = snapshot.record.snapshot;
      txn.puts.emplace_back(
          (snapshot.persisted ? PersistedKey : StoredSnapshotKey)(id.job, id.epoch, id.sequence),
          snapshot.encoded);
      EpochId& epoch = snapshot.persisted ? record.persisted_epoch : record.latest_epoch;
      uint64_t& sequence = snapshot.persisted ? record.persisted_sequence : record.latest_sequence;
      if (OrderOf(id.epoch, id.sequence) > OrderOf(epoch, sequence)) {
        epoch = id.epoch;
        sequence = id.sequence;
      }
    }
    const absl::Status written = co_await WriteJob(job, record, std::move(txn));
    GEMEL_CO_RETURN_IF_ERROR(written);
    for (Committed& snapshot : part) {
      const SnapshotId id = snapshot.record.snapshot;
      const bool persisted = snapshot.persisted;
      Sometimes(Situation::kLateCommit);
      Emit(Severity::kWarning, "late_commit", fmt::format("{} is known again", id.ToString()));
      const auto at = job->snapshots.emplace(OrderOf(id.epoch, id.sequence), std::move(snapshot));
      at.first->second.persisted = at.first->second.persisted || persisted;
    }
  }
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
