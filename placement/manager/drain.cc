// SPDX-License-Identifier: Apache-2.0
//
// Drain: a person wants a server empty. It takes no new copies; a rank that still saves there keeps
// its local copy and has all others elsewhere. Repair brings what the server holds, in memory and
// on disk, to others until redundancy holds without it; then it may be stopped and nothing follows
// from that. Kept in the MetaStore until a person cancels it or the server is forgotten.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "placement/manager/core.h"

namespace gemel {

Task<absl::Status> PlacementCore::LoadDrains() {
  const absl::StatusOr<std::vector<KeyValue>> listed = co_await seams_.store->List(kDrainPrefix);
  GEMEL_CO_RETURN_IF_ERROR(listed.status());
  for (const auto& [key, value] : *listed) {
    GEMEL_CO_ASSIGN_OR_RETURN(const DrainRecord record,
                              DecodeStored<DrainRecord>(key, value.value));
    if (DrainKey(record.server) != key) {
      co_return error::DataLoss("key '{}' of the placement store names server {}: it is damaged",
                                key, record.server.ToHex());
    }
    draining_[record.server] = record;
  }
  co_return absl::OkStatus();
}

// A change of who takes work is a change of the map. REQUIRES: map_lock_ is held.
Task<absl::Status> PlacementCore::WriteDrain(DrainRecord record, bool remove) {
  ClusterRecord cluster = cluster_;
  cluster.map_version += 1;
  cluster.writes += 1;
  Txn txn;
  txn.compares.push_back({.key = kClusterKey, .version = cluster_version_});
  txn.puts.emplace_back(kClusterKey, EncodeStored(cluster));
  if (remove) {
    txn.deletes.push_back(DrainKey(record.server));
  } else {
    txn.puts.emplace_back(DrainKey(record.server), EncodeStored(record));
  }
  const absl::StatusOr<uint64_t> written = co_await Write(std::move(txn));
  GEMEL_CO_RETURN_IF_ERROR(written.status());
  GEMEL_CHECK_GT(*written, cluster_version_);
  cluster_version_ = *written;
  cluster_ = cluster;
  if (remove) {
    draining_.erase(record.server);
  } else {
    draining_[record.server] = record;
  }
  MembersChanged();
  map_changed_.NotifyAll();
  co_return absl::OkStatus();
}

// Of a server that was forgotten.
Task<void> PlacementCore::EndDrain(ServerId id) {
  if (!draining_.contains(id)) {
    co_return;
  }
  const LockHold hold = co_await Lock(&map_lock_);
  if (FindMember(id) == nullptr && draining_.contains(id)) {
    const DrainRecord record{.server = id};
    const absl::Status written = co_await WriteDrain(record, true);
    if (!written.ok()) {
      Emit(Severity::kWarning, "store_refused", ToText(written));
    }
  }
}

absl::StatusOr<MemberEntry*> PlacementCore::MemberNamed(const std::string& name) {
  std::vector<MemberEntry*> found;
  std::string names;
  for (const auto& [id, member] : members_) {
    const std::string& domain = member->record.domain;
    if (member->record.name == name || id.ToHex() == name || domain == name ||
        domain.substr(domain.rfind('/') + 1) == name) {
      found.push_back(member.get());
    }
    names += (names.empty() ? "" : ", ") + member->record.name;
  }
  if (found.empty()) {
    return error::NotFound("no server is called '{}'; there are: {}", name.substr(0, 128),
                           names.empty() ? "none" : names);
  }
  if (found.size() > 1) {
    return error::InvalidArgument("{} servers are called '{}': name it by its id, {} or {}",
                                  found.size(), name, found[0]->record.id.ToHex(),
                                  found[1]->record.id.ToHex());
  }
  return found.front();
}

// Can others keep the plan's copies, in as many domains as now?
absl::Status PlacementCore::CheckDrainCopies(const MemberEntry& member, const Plan& plan,
                                             const std::string& what) {
  const uint32_t copies = plan.assignment.copies;
  std::vector<model::Member> others = plan.members;
  const uint32_t level = plan.assignment.level;
  const uint32_t domains = std::min(copies, model::CountDomains(others, level));
  others.at(plan.index.at(member.record.id)).placeable = false;
  const auto left = std::count_if(others.begin(), others.end(),
                                  [](const model::Member& other) { return other.placeable; });
  if (left < std::min(copies, plan.assignment.members)) {
    return error::FailedPrecondition(
        "{} keeps {} copies and without {} only {} servers take work: start another first, or "
        "drain with --force",
        what, copies, member.record.name, left);
  }
  const uint32_t domains_left = model::CountDomains(others, level);
  if (domains_left < domains) {
    return error::FailedPrecondition(
        "{} keeps its copies in {} failure domains and without {} there are {}: start a server in "
        "another domain first, or drain with --force",
        what, domains, member.record.name, domains_left);
  }
  return absl::OkStatus();
}

// Would everything that it holds fit elsewhere, room being given to what is most at risk first?
absl::Status PlacementCore::CheckDrainRoom(const MemberEntry& member) {
  const ServerId& id = member.record.id;
  draining_[id] = {.server = id};
  plans_.clear();
  const Backlog backlog = CollectBacklog();
  Room room;
  for (const auto& [other, entry] : members_) {
    if (entry->alive() && entry->reported && !draining_.contains(other)) {
      room[other] = RoomAt(*entry);
    }
  }
  std::string free;
  for (const auto& [other, bytes] : room) {
    free += fmt::format("{}{} has {}", free.empty() ? "" : ", ", members_.at(other)->record.name,
                        bytes);
  }
  uint64_t lacking_shards = 0;
  uint64_t lacking_bytes = 0;
  std::set<std::string> failures;
  for (const RepairTask& task : backlog.tasks) {
    Plan& plan = PlanOf(task.job->snapshots.at(task.order).record);
    model::RepairShard shard = ShardOf(task, plan, &room, &failures);
    const model::RepairTargets found = plan.repairs->TargetsOf(shard);
    for (const uint32_t index : found.targets) {
      room.at(plan.ids[index]) -= task.bytes;
    }
    const std::vector<ServerId> holders =
        RankHolders(task.job->snapshots.at(task.order), task.rank);
    if (found.blocked && std::find(holders.begin(), holders.end(), id) != holders.end()) {
      lacking_shards += 1;
      lacking_bytes += task.bytes;
    }
  }
  draining_.erase(id);
  plans_.clear();
  if (lacking_shards > 0) {
    return error::ResourceExhausted(
        "{} shards of {} bytes that {} holds fit nowhere else ({}): give the others more memory "
        "(--memory), start another server, or drain with --force",
        lacking_shards, lacking_bytes, member.record.name,
        free.empty() ? "no other server takes work" : free + " bytes free");
  }
  return absl::OkStatus();
}

// The others' disks, all shards of a snapshot taken together.
absl::Status PlacementCore::CheckDrainDisk(const MemberEntry& member) {
  uint64_t bytes = 0;
  uint32_t copies = 0;
  for (const auto& [key, shards] : member.disk) {
    const Job* job = FindJob(key.job);
    const auto order = OrderOf(key.epoch, key.sequence);
    if (job == nullptr || !job->snapshots.contains(order) || !job->snapshots.at(order).persisted) {
      continue;
    }
    copies = std::max(copies, std::max(1U, job->record.persist_copies));
    for (const auto& [rank, copy] : shards) {
      bytes += copy.bytes;
    }
  }
  uint32_t able = 0;
  uint64_t free = 0;
  for (const auto& [id, other] : members_) {
    if (other->alive() && id != member.record.id && !draining_.contains(id) &&
        other->tier_trouble.empty() && other->tier_free_bytes > 0) {
      able += 1;
      free += other->tier_free_bytes;
    }
  }
  if (able < copies || free < bytes) {
    return error::ResourceExhausted(
        "{} has {} bytes of persisted snapshots on its disk, {} copies are asked for, and {} other "
        "servers have a persistent tier, with {} bytes free: mend the others' disks, start another "
        "server, or drain with --force",
        member.record.name, bytes, copies, able, free);
  }
  return absl::OkStatus();
}

absl::Status PlacementCore::CheckDrain(const MemberEntry& member) {
  GEMEL_CHECK(member.alive() && !draining_.contains(member.record.id)) << member.record.name;
  std::string waiting_for;
  if (!AllReported(&waiting_for)) {
    return error::Unavailable("{} is not drained before all is known: {}", member.record.name,
                              waiting_for);
  }
  GEMEL_RETURN_IF_ERROR(
      CheckDrainCopies(member, PlanFor(1, StrategyChoice::kGroup), "the cluster"));
  for (const auto& [name, job] : jobs_) {
    for (const auto& [order, snapshot] : job->snapshots) {
      if (snapshot.in_memory) {
        GEMEL_RETURN_IF_ERROR(
            CheckDrainCopies(member, PlanOf(snapshot.record), snapshot.record.snapshot.ToString()));
      }
    }
    for (const auto& [sequence, attempt] : job->attempts) {
      const Plan& plan = PlanFor(attempt->record.copies, attempt->record.strategy);
      GEMEL_RETURN_IF_ERROR(CheckDrainCopies(member, plan, attempt->id().ToString()));
    }
  }
  GEMEL_RETURN_IF_ERROR(CheckDrainRoom(member));
  return CheckDrainDisk(member);
}

// False: it was begun before.
PlacementCore::Answer<bool> PlacementCore::BeginDrain(ServerId id, bool force) {
  const LockHold hold = co_await Lock(&map_lock_);
  const MemberEntry* member = FindMember(id);
  if (member == nullptr || !member->alive()) {
    co_return error::FailedPrecondition(
        "server {} is dead: what it held is repaired from other copies, `gemel repair` says how "
        "far that is",
        member == nullptr ? id.ToShort() : member->record.name);
  }
  if (draining_.contains(id)) {
    co_return false;
  }
  const absl::Status checked = CheckDrain(*member);
  if (!checked.ok() && !force) {
    co_return checked;
  }
  const std::string name = member->record.name;
  const DrainRecord record{.server = id, .forced = force};
  const absl::Status written = co_await WriteDrain(record, false);
  GEMEL_CO_RETURN_IF_ERROR(written);
  Emit(Severity::kInfo, "drain_began",
       fmt::format("server {} takes no work from here on{}", name,
                   checked.ok() ? "" : ", forced: " + std::string(MessageOf(checked))));
  co_return true;
}

PlacementCore::Answer<bool> PlacementCore::CancelDrain(ServerId id) {
  const LockHold hold = co_await Lock(&map_lock_);
  if (!draining_.contains(id)) {
    co_return false;
  }
  const DrainRecord record{.server = id};
  const absl::Status written = co_await WriteDrain(record, true);
  GEMEL_CO_RETURN_IF_ERROR(written);
  Emit(Severity::kInfo, "drain_cancelled", fmt::format("server {} takes work again", id.ToShort()));
  co_return true;
}

void PlacementCore::FillDrain(const MemberEntry& member, pb::DrainReply* reply) {
  MemberToProto(member, reply->mutable_server());
  Backlog backlog = CollectBacklog();
  IssueRepairs(&backlog);
  const auto found = backlog.draining.find(member.record.id);
  if (found == backlog.draining.end()) {
    return;
  }
  const DrainLeft& left = found->second;
  reply->set_shards(left.shards);
  reply->set_bytes(left.bytes);
  reply->set_persisted_shards(left.persisted_shards);
  reply->set_open_saves(left.open_saves);
  for (const std::string& line : backlog.blocked) {
    reply->add_blocked(line);
  }
  for (const std::string& line : backlog.waiting) {
    reply->add_waiting(line);
  }
  if (left.open_saves > 0) {
    reply->add_waiting(fmt::format("{} saves that were opened before", left.open_saves));
  }
  if (left.records > 0) {
    reply->add_waiting(fmt::format("commit records of {} snapshots", left.records));
  }
  const bool known = member.alive() && !member.disk_unknown;
  if (!known) {
    reply->add_waiting(fmt::format("{}: what it holds is not known{}", member.record.name,
                                   member.alive() ? ", " + member.tier_trouble : ", it is dead"));
  }
  reply->set_ready(known && left.shards == 0 && left.persisted_shards == 0 &&
                   left.open_saves == 0 && left.records == 0 && backlog.unknown_snapshots == 0 &&
                   AllReported(nullptr));
}

PlacementCore::Answer<pb::DrainReply> PlacementCore::Drain(CallPtr, pb::DrainRequest request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  GEMEL_CO_ASSIGN_OR_RETURN(const MemberEntry* named, MemberNamed(request.server()));
  const ServerId id = named->record.id;
  if (request.action() == pb::DrainRequest::BEGIN) {
    const absl::StatusOr<bool> begun = co_await BeginDrain(id, request.force());
    GEMEL_CO_RETURN_IF_ERROR(begun.status());
  } else if (request.action() == pb::DrainRequest::CANCEL) {
    const absl::StatusOr<bool> cancelled = co_await CancelDrain(id);
    GEMEL_CO_RETURN_IF_ERROR(cancelled.status());
  }
  const MemberEntry* member = FindMember(id);
  if (member == nullptr) {
    co_return error::NotFound("server {} was forgotten meanwhile", id.ToShort());
  }
  pb::DrainReply reply;
  FillDrain(*member, &reply);
  co_return reply;
}

}  // namespace gemel
