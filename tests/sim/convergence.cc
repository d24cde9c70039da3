// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/convergence.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "client/core/restore_reader.h"
#include "common/check.h"
#include "common/control_protocol.h"
#include "common/errors.h"
#include "placement/manager/stored.h"
#include "placement/model/assignment.h"
#include "placement/model/records.h"
#include "server/identity.h"

namespace gemel::sim {
namespace {

constexpr uint32_t kReadTries = 30;          // of one snapshot, while its host is not ready
constexpr uint32_t kTicksBetweenReads = 50;  // a second
constexpr Duration kCommitWithin = 20s;
constexpr Duration kQuietWithin = 90s;
constexpr Duration kAnswerWithin = 5s;
constexpr Duration kReadWithin = 60s;
constexpr Duration kReadPause = 100ms;

Task<void> Call(RpcChannel* channel, std::string method, std::string request, TimePoint deadline,
                std::shared_ptr<std::optional<absl::StatusOr<std::string>>> answer) {
  *answer = co_await channel->Call(std::move(method), std::move(request), deadline);
}

// What the MetaStore has below a prefix, as records.
std::vector<model::CommitRecord> RecordsBelow(Cluster* cluster, const std::string& prefix) {
  std::vector<model::CommitRecord> records;
  const auto& values = cluster->store()->values;
  for (auto at = values.lower_bound(prefix); at != values.end() && at->first.starts_with(prefix);
       ++at) {
    absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(at->second.value);
    GEMEL_CHECK(record.ok()) << at->first;
    records.push_back(*std::move(record));
  }
  return records;
}

}  // namespace

Convergence::Convergence(Cluster* cluster, Oracle* oracle, const GroundTruth* truth,
                         Strikes::Jobs* jobs, const World& world)
    : cluster_(cluster),
      oracle_(oracle),
      truth_(truth),
      jobs_(jobs),
      run_for_(world.run_for),
      over_(world.over),
      operator_(cluster->StartOperator()),
      placement_(cluster->ChannelToPlacement(operator_.get())) {}

Convergence::~Convergence() = default;

template <typename Reply, typename Request>
std::optional<Reply> Convergence::Ask(const std::string& method, Request request) {
  request.mutable_caller()->set_protocol_version(kControlProtocolOldest);
  auto answer = std::make_shared<std::optional<absl::StatusOr<std::string>>>();
  SimLoop* loop = &operator_->loop;
  loop->Spawn(Call(placement_.get(), method, request.SerializeAsString(),
                   loop->Now() + kAnswerWithin, answer));
  while (!answer->has_value() && !over_()) {
    run_for_();
  }
  Reply reply;
  if (!answer->has_value() || !(*answer)->ok() || !reply.ParseFromString(***answer)) {
    return std::nullopt;
  }
  return reply;
}

bool Convergence::Within(Duration bound, const std::string& what,
                         const std::function<std::string()>& missing) {
  const TimePoint give_up = cluster_->scheduler()->now() + bound;
  std::string left = missing();
  while (!left.empty() && !over_()) {
    if (cluster_->scheduler()->now() > give_up) {
      oracle_->Violation(
          fmt::format("{} within {} s after everything healed: {}", what,
                      std::chrono::duration_cast<std::chrono::seconds>(bound).count(), left));
      return false;
    }
    run_for_();
    left = missing();
  }
  return !over_();
}

void Convergence::RemoveJob(const std::string& job) {
  cluster_->Note("a person removes " + job);
  oracle_->Removing(job);
  pb::RemoveSnapshotsRequest request;
  request.set_job(job);
  const OperationIndex call = oracle_->calls()->Remove(oracle_->NextProcess(), job);
  const bool told =
      Ask<pb::RemoveSnapshotsReply>("RemoveSnapshots", std::move(request)).has_value();
  oracle_->RemovalEnded(job);
  oracle_->calls()->Ended(call, told ? absl::OkStatus() : error::Unknown("not answered"));
}

std::string Convergence::WithoutCommit() const {
  std::string without;
  for (const std::unique_ptr<SimJob>& job : *jobs_) {
    const std::string& name = job->plan().name;
    if (oracle_->newest_opened_at(name) < healed_at_ || !job->settled()) {
      without += fmt::format("{}{}, which says {} ({})", without.empty() ? "" : "; ", name,
                             ToText(job->failure()), job->At());
    }
  }
  return without;
}

std::optional<pb::ListSnapshotsReply> Convergence::List(const std::string& job) {
  pb::ListSnapshotsRequest request;
  request.set_job(job);
  return Ask<pb::ListSnapshotsReply>("ListSnapshots", std::move(request));
}

std::string Convergence::WithoutCopies() {
  const auto members = static_cast<uint32_t>(CountedMembers());
  for (const std::unique_ptr<SimJob>& job : *jobs_) {
    const std::optional<pb::ListSnapshotsReply> list = List(job->plan().name);
    if (!list.has_value()) {
      return "placement does not list " + job->plan().name;
    }
    for (const pb::SnapshotInfo& info : list->snapshots()) {
      const uint32_t wanted = std::min(info.copies_wanted(), members);
      if (info.pinned()) {
        return fmt::format("{}@{} is pinned", job->plan().name, info.snapshot().name());
      }
      // What was lost before a newer one was committed stays as it is until it is retired.
      if (info.latest() && info.state() != pb::SNAPSHOT_COMMITTED) {
        return fmt::format("{}@{} is open: {}", job->plan().name, info.snapshot().name(),
                           info.detail());
      }
      if (info.in_memory() && info.latest() && info.copies_now() < wanted) {
        return fmt::format("{}@{} has {} copies of {}", job->plan().name, info.snapshot().name(),
                           info.copies_now(), wanted);
      }
    }
  }
  return "";
}

size_t Convergence::CountedMembers() const {
  size_t members = 0;
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    members += cluster_->IsMember(i) ? 1 : 0;
  }
  return members;
}

// Shards on disks that no PERSISTED names. Where disks were hurt they may be parts of what is lost,
// and stay as long as a dead server might come back with the rest.
std::string Convergence::Unreconciled() {
  if (hurt_.disks) {
    return "";
  }
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    if (!cluster_->IsMember(i)) {
      continue;
    }
    for (const auto& [shard, record] : cluster_->tier(i)->Durable()) {
      const SnapshotId& id = shard.snapshot;
      if (!cluster_->store()->values.contains(PersistedKey(id.job, id.epoch, id.sequence))) {
        return fmt::format("{} is on the disk of {}, and it is not PERSISTED", shard.ToString(),
                           Cluster::HostOf(i));
      }
    }
  }
  return "";
}

// Of the newest snapshot of a job: as many copies as placement says, in different domains.
std::string Convergence::WrongCopies(const model::CommitRecord& record, uint32_t copies_now) {
  std::vector<model::Member> members;
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    if (cluster_->IsMember(i)) {
      members.push_back({.domain = cluster_->DomainOf(i)});
    }
  }
  const uint32_t level = model::BuildGroups(members, record.copies, record.strategy).level;
  const size_t domains = model::CountDomains(members, level);
  size_t fewest = members.size() + 1;
  std::string scarce;
  for (uint32_t rank = 0; rank < record.world_size; ++rank) {
    const ShardId shard{record.snapshot, rank};
    const std::vector<uint32_t> holders = truth_->MemoriesWith(shard);
    if (holders.size() < fewest) {
      fewest = holders.size();
      scarce = fmt::format("rank {} at {} servers: {}", rank, fewest, fmt::join(holders, ", "));
    }
    const size_t apart = truth_->DomainsOf(holders, level);
    if (holders.size() >= record.copies && apart < std::min<size_t>(record.copies, domains)) {
      return fmt::format("domains: {} is kept in {} of {} domains at level {}", shard.ToString(),
                         apart, domains, level);
    }
  }
  if (std::min<size_t>(fewest, record.copies) != std::min(copies_now, record.copies)) {
    return fmt::format("accounting: placement counts {} copies of {}; there is {}", copies_now,
                       record.snapshot.ToString(), scarce);
  }
  return "";
}

std::string Convergence::WrongAccounts() {
  for (const std::unique_ptr<SimJob>& job : *jobs_) {
    const std::string& name = job->plan().name;
    const std::optional<pb::ListSnapshotsReply> list = List(name);
    if (!list.has_value() || hurt_.memory) {
      continue;  // nobody looks for decay at rest
    }
    std::vector<model::CommitRecord> records = RecordsBelow(cluster_, kSnapshotPrefix + name + "/");
    for (const pb::SnapshotInfo& info : list->snapshots()) {
      const auto newest = std::find_if(records.begin(), records.end(), [&info](const auto& record) {
        return record.snapshot.sequence == info.snapshot().sequence();
      });
      if (!info.latest() || !info.in_memory() || newest == records.end()) {
        continue;
      }
      if (std::string wrong = WrongCopies(*newest, info.copies_now()); !wrong.empty()) {
        return wrong;
      }
    }
  }
  return "";
}

Task<absl::Status> Convergence::ReadShards(Convergence* self, ClientCore* core, uint32_t host,
                                           SnapshotId snapshot) {
  ReadOptions options;
  options.job = snapshot.job;
  options.name = snapshot.name;
  options.deadline = core->loop()->Now() + kReadWithin;
  auto reader = co_await RestoreReader::BeginRead(core, options);
  GEMEL_CO_RETURN_IF_ERROR(reader.status());
  const auto world = static_cast<uint32_t>((*reader)->shards().size());
  absl::Status read = absl::OkStatus();
  const TimePoint began = self->cluster_->now();
  co_await core->loop()->Sleep(kReadPause);  // newer ones are committed meanwhile
  for (uint32_t shard = 0; shard < world && read.ok(); ++shard) {
    std::vector<std::byte> bytes((*reader)->shards()[shard].bytes);
    read = co_await (*reader)->Ensure(shard, 0, bytes.size());
    if (read.ok()) {
      read = (*reader)->CopyOut(shard, 0, bytes);
    }
    if (read.ok()) {
      self->oracle_->CheckContent((*reader)->snapshot(), world, shard, bytes);
    }
  }
  const SnapshotId& id = (*reader)->snapshot();
  const auto& values = self->cluster_->store()->values;
  // The pin goes with the server's incarnation.
  const bool counted = self->cluster_->IsMember(host) && self->cluster_->MemberSince(host) < began;
  if (counted && !values.contains(StoredSnapshotKey(id.job, id.epoch, id.sequence)) &&
      !values.contains(PersistedKey(id.job, id.epoch, id.sequence))) {
    self->oracle_->Violation("pinned: " + id.ToString() + " is gone, and is being read");
  }
  const absl::Status released = co_await (*reader)->Release();
  read.Update(released);
  co_return read;
}

Task<void> Convergence::Read(Convergence* self, ClientCore* core, uint32_t host,
                             SnapshotId snapshot,
                             std::shared_ptr<std::optional<absl::Status>> done) {
  *done = co_await ReadShards(self, core, host, std::move(snapshot));
}

bool Convergence::IsReadable(const model::CommitRecord& record) const {
  const bool kept = truth_->IsKeptInMemory(record.snapshot);
  for (uint32_t rank = 0; rank < record.world_size; ++rank) {
    const ShardId shard{record.snapshot, rank};
    const bool on_disk = !hurt_.disks && !truth_->DisksWith(shard).empty();
    const bool in_memory = kept && !truth_->MemoriesWith(shard).empty();
    if (!in_memory && !on_disk) {
      return false;
    }
  }
  return true;
}

// By fresh readers on a host that is up. Of one name only the newest is read.
absl::Status Convergence::ReadAt(uint32_t host, const SnapshotId& snapshot) {
  const std::unique_ptr<Node> node = cluster_->StartTrainer(host);
  ClientCore core(&node->loop, &node->net, &node->host, Cluster::SocketOf(host));
  auto done = std::make_shared<std::optional<absl::Status>>();
  node->loop.Spawn(Read(this, &core, host, snapshot, done));
  while (!done->has_value() && !over_()) {
    run_for_();
  }
  cluster_->world()->Kill(node->process);
  node->loop.Kill();
  return done->value_or(error::Cancelled("the run ended"));
}

// While the jobs save: what is read stays, whether or not all of it can be read.
void Convergence::ReadBeside() {
  uint32_t host = 0;
  while (host + 1 < cluster_->shape().slots() && !cluster_->IsMember(host)) {
    host += 1;
  }
  for (const std::unique_ptr<SimJob>& job : *jobs_) {
    const auto records = RecordsBelow(cluster_, kSnapshotPrefix + job->plan().name + "/");
    if (!records.empty() && cluster_->IsMember(host) && !over_()) {
      ReadAt(host, records.back().snapshot).IgnoreError();
    }
  }
}

void Convergence::ReadAll() {
  std::map<std::pair<std::string, std::string>, model::CommitRecord> newest;
  for (const char* prefix : {kPersistedPrefix, kSnapshotPrefix}) {
    for (model::CommitRecord& record : RecordsBelow(cluster_, prefix)) {
      const std::pair key(record.snapshot.job, record.snapshot.name);
      const auto found = newest.find(key);
      if (found == newest.end() || found->second.snapshot.sequence < record.snapshot.sequence) {
        newest[key] = std::move(record);
      }
    }
  }
  uint32_t host = 0;
  for (const auto& [name, record] : newest) {
    do {
      host = (host + 1) % cluster_->shape().slots();
    } while (!cluster_->IsMember(host));
    const bool readable = IsReadable(record);
    absl::Status read = ReadAt(host, record.snapshot);
    // A disk that failed is opened again after a back-off. A host whose poll for directives was
    // lost has retired snapshots in its memory until the poll's deadline.
    for (uint32_t tries = 1; tries < kReadTries && !over_(); ++tries) {
      if (read.code() != absl::StatusCode::kUnavailable &&
          read.code() != absl::StatusCode::kResourceExhausted) {
        break;
      }
      for (uint32_t i = 0; i < kTicksBetweenReads; ++i) {
        run_for_();
      }
      read = ReadAt(host, record.snapshot);
    }
    if (readable && !read.ok() && !over_()) {
      oracle_->Violation(fmt::format("readable: {} cannot be read at {}: {}",
                                     record.snapshot.ToString(), Cluster::HostOf(host),
                                     ToText(read)));
    }
  }
}

// A fence that a restart would take away is none.
void Convergence::CheckFences() {
  if (hurt_.disks || hurt_.refused) {
    return;
  }
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    const Server* server = cluster_->ServerAt(i);
    const SimDiskState::Contents files = cluster_->disk(i)->contents();
    const auto found = files.find("identity");
    if (server == nullptr || found == files.end()) {
      continue;
    }
    const absl::StatusOr<IdentityFile> on_disk = DecodeIdentity(found->second);
    GEMEL_CHECK(on_disk.ok()) << ToText(on_disk.status());
    for (const auto& [job, epoch] : server->identity().epochs()) {
      const auto seen = on_disk->epochs.find(job);
      if (seen == on_disk->epochs.end() || seen->second < epoch) {
        oracle_->Violation(fmt::format("fence: {} has seen epoch {} of {}, and its disk has not",
                                       Cluster::HostOf(i), epoch.ToString(), job));
      }
    }
  }
}

// Each job has committed since all healed, and is not just beginning anew.
bool Convergence::AwaitCommits() {
  const TimePoint give_up = cluster_->now() + kCommitWithin;
  while (!WithoutCommit().empty() && cluster_->scheduler()->now() < give_up && !over_()) {
    run_for_();
    for (const std::unique_ptr<SimJob>& job : *jobs_) {
      if (job->lost()) {
        RemoveJob(job->plan().name);
        job->StartOver();
      }
    }
  }
  if (const std::string without = WithoutCommit(); !without.empty()) {
    if (!over_()) {
      oracle_->Violation(fmt::format("no new commit within {} s after everything healed: {}; {}",
                                     kCommitWithin / 1s, without, WithoutCopies()));
    }
    return false;
  }
  return true;
}

void Convergence::Check(Hurt hurt) {
  hurt_ = hurt;
  healed_at_ = cluster_->now();
  if (!AwaitCommits()) {
    return;
  }
  ReadBeside();
  if (!AwaitCommits()) {
    return;
  }
  for (const std::unique_ptr<SimJob>& job : *jobs_) {
    job->EndAll();
  }
  const auto leftovers = [this] {
    const std::vector<std::string> left = truth_->Leftovers();
    return left.empty() ? "" : left.front();
  };
  if (!Within(kQuietWithin, "something is left over", leftovers) ||
      !Within(kQuietWithin, "copies are missing", [this] { return WithoutCopies(); }) ||
      !Within(kQuietWithin, "copies are not what they should be",
              [this] { return WrongAccounts(); }) ||
      !Within(kQuietWithin, "disks keep what nobody needs", [this] { return Unreconciled(); })) {
    return;
  }
  CheckFences();
  ReadAll();
}

}  // namespace gemel::sim
