// SPDX-License-Identifier: Apache-2.0
//
// Collecting the backlog of repair, and telling people of it.
#include "placement/manager/backlog.h"

#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "placement/manager/core.h"

namespace gemel {

bool IsMoreAtRisk(const RepairTask& a, const RepairTask& b) {
  const auto risk = [](const RepairTask& task) {
    return std::tuple(task.living, task.age, std::string_view(task.job->name), task.order,
                      task.rank);
  };
  return risk(a) < risk(b);
}

void AddLine(std::set<std::string>* lines, std::string line) {
  if (lines->size() < kBacklogLinesMax) {
    lines->insert(std::move(line));
  }
}

Backlog PlacementCore::CollectBacklog() {
  Backlog backlog;
  for (const auto& [id, record] : draining_) {
    backlog.draining[id] = DrainLeft();
  }
  std::string waiting_for;
  if (!AllReported(&waiting_for)) {
    AddLine(&backlog.waiting, waiting_for);
  }
  for (auto& [name, job] : jobs_) {
    uint32_t age = 0;
    for (auto it = job->snapshots.rbegin(); it != job->snapshots.rend(); ++it) {
      CollectMemory(job.get(), &it->second, age, &backlog);
      CollectDisks(job.get(), &it->second, &backlog);
      age += it->second.in_memory ? 1 : 0;
    }
  }
  CollectOpen(&backlog);
  std::sort(backlog.tasks.begin(), backlog.tasks.end(), IsMoreAtRisk);
  backlog_bytes_.Set(static_cast<int64_t>(backlog.bytes));
  return backlog;
}

// Nothing moves of what is to leave memory; until the MetaStore has heard of it, it may stay, and a
// server that has too much of it is not empty.
void PlacementCore::CollectMemory(Job* job, Committed* snapshot, uint32_t age, Backlog* backlog) {
  if (!snapshot->in_memory || (snapshot->full && draining_.empty())) {
    return;
  }
  const model::CommitRecord& record = snapshot->record;
  // Of an idle manifest all copies had their committed roots: what holders say is believed.
  if (snapshot->parsed == nullptr && !(snapshot->manifest_idle && snapshot->full) &&
      !LearnManifest(snapshot)) {
    if (!snapshot->leaving) {
      FetchManifest(snapshot);
    }
    backlog->unknown_snapshots += 1;
    return;
  }
  const SnapshotId& id = record.snapshot;
  Plan& plan = PlanOf(record);
  const bool nobody = plan.assignment.members == 0;  // takes work: all are being drained
  if ((!snapshot->full || nobody) && plan.assignment.members < record.copies) {
    AddLine(&backlog->blocked,
            fmt::format("job {} keeps {} copies and {} servers take work: start more (`gemel up "
                        "--servers`), or save with fewer copies",
                        job->name, record.copies, plan.assignment.members));
  }
  const HolderTable holders = HoldersOf(*snapshot);
  GEMEL_CHECK_EQ(holders.size(), record.world_size) << id.ToString();
  RepairTask shard{
      .wanted = record.copies, .age = age, .job = job, .order = OrderOf(id.epoch, id.sequence)};
  for (shard.rank = 0; shard.rank < record.world_size; ++shard.rank) {
    CollectRank(shard, holders[shard.rank], &plan, backlog);
  }
  CollectRecords(*snapshot, backlog);
}

void PlacementCore::CollectRank(const RepairTask& shard, const std::vector<ServerId>& holders,
                                Plan* plan, Backlog* backlog) {
  const Committed& snapshot = shard.job->snapshots.at(shard.order);
  RepairTask task = shard;
  task.living = static_cast<uint32_t>(holders.size());
  task.missing = plan->repairs->Missing(Indices(*plan, holders));
  if (plan->assignment.members == 0 && !holders.empty()) {
    task.missing = 1;  // all are being drained: nobody takes it, and these are the last copies
  }
  if (task.missing == 0) {
    return;
  }
  const std::vector<ServerId> sources = RankSources(snapshot, task.rank);
  const bool known = AllReported(nullptr) && UnknownDisks().empty();
  if (sources.empty()) {
    backlog->lost_shards += known ? 1 : 0;
    if (!known) {
      AddLine(&backlog->waiting,
              fmt::format("{}: a disk that is not read yet may hold it",
                          ShardId{snapshot.record.snapshot, task.rank}.ToString()));
    }
    return;
  }
  task.bytes = CopyAt(*FindMember(sources.front()), {snapshot.record.snapshot, task.rank}).bytes;
  for (const ServerId& holder : holders) {
    const auto left = backlog->draining.find(holder);
    if (left != backlog->draining.end()) {
      left->second.shards += 1;
      left->second.bytes += task.missing * task.bytes;
    }
  }
  if (!snapshot.leaving) {
    backlog->bytes += task.missing * task.bytes;
    backlog->last_copy_shards += task.urgent() ? 1 : 0;
    backlog->tasks.push_back(task);
  }
}

// Holders keep the commit record too: a recovery from servers reads it there.
void PlacementCore::CollectRecords(const Committed& snapshot, Backlog* backlog) const {
  const SnapshotKey key = KeyOf(snapshot.record.snapshot);
  uint32_t staying = 0;
  uint32_t members = 0;
  for (const auto& [id, member] : members_) {
    const bool stays = member->in_service() && !draining_.contains(id);
    members += stays ? 1 : 0;
    staying += stays && member->records.contains(key) ? 1 : 0;
  }
  if (staying >= std::min(snapshot.record.min_copies, members)) {
    return;
  }
  for (auto& [id, left] : backlog->draining) {
    const auto member = members_.find(id);
    left.records += member != members_.end() && member->second->records.contains(key) ? 1 : 0;
  }
}

// Saves that would commit with a draining server's receipt among those they need.
void PlacementCore::CollectOpen(Backlog* backlog) const {
  for (auto& [id, left] : backlog->draining) {
    for (const auto& [name, job] : jobs_) {
      for (const auto& [sequence, attempt] : job->attempts) {
        const auto needs = [this, &id = id, &attempt = attempt](const RankSlot& slot) {
          size_t staying = 0;
          bool here = false;
          for (const SlotReceipt& holder : slot.holders) {
            staying += draining_.contains(holder.server) ? 0 : 1;
            here = here || holder.server == id;
          }
          return here && staying < attempt->record.copies;
        };
        left.open_saves += std::any_of(attempt->slots.begin(), attempt->slots.end(), needs) ? 1 : 0;
      }
    }
  }
}

// Told once for each change.
void PlacementCore::TellBlocked(const Backlog& backlog) {
  std::string text;
  for (const std::string& line : backlog.blocked) {
    text += (text.empty() ? "" : "; ") + line;
  }
  if (text != repair_blocked_) {
    Emit(text.empty() ? Severity::kInfo : Severity::kWarning,
         text.empty() ? "repair_unblocked" : "repair_blocked",
         text.empty() ? "what could not be repaired can be, or is" : text);
    repair_blocked_ = text;
  }
}

// Asked again and again while somebody waits: a member that failed is tried once a second.
PlacementCore::Answer<pb::RepairReply> PlacementCore::Repair(CallPtr, pb::RepairRequest) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  repair_after_ = loop_->Now();
  const TimePoint soon = Add(loop_->Now(), kRepairRetryMin);
  for (auto& [name, job] : jobs_) {
    for (auto& [order, snapshot] : job->snapshots) {
      for (auto& [to, failure] : snapshot.repair_failures) {
        failure.until = std::min(failure.until, soon);
      }
    }
  }
  Backlog backlog = CollectBacklog();
  IssueRepairs(&backlog);
  pb::RepairReply reply;
  reply.set_shards(backlog.tasks.size());
  reply.set_bytes(backlog.bytes);
  reply.set_last_copy_shards(backlog.last_copy_shards);
  reply.set_lost_shards(backlog.lost_shards);
  reply.set_unknown_snapshots(backlog.unknown_snapshots);
  reply.set_repaired_bytes(static_cast<uint64_t>(repaired_bytes_.Get()));
  reply.set_persisted_shards(backlog.rewrites.size());
  for (const auto& [id, member] : members_) {
    reply.set_pulls(reply.pulls() + static_cast<uint32_t>(member->pulls));
  }
  for (const std::string& line : backlog.blocked) {
    reply.add_blocked(line);
  }
  for (const std::string& line : backlog.waiting) {
    reply.add_waiting(line);
  }
  co_return reply;
}

}  // namespace gemel
