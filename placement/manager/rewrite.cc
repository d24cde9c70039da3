// SPDX-License-Identifier: Apache-2.0
//
// Rewriting: a shard of a PERSISTED snapshot that is sound on fewer disks than its job asked for (a
// rotten or lost one, a server that is drained) goes to a further disk: from the memory of a server
// that holds it, or pulled there first, from memory or from a disk that still has it. A server
// that died lately may come back with its disk: nothing is rewritten for its sake before it would
// be forgotten.
#include <algorithm>
#include <tuple>

#include "common/check.h"
#include "common/errors.h"
#include "placement/manager/core.h"

namespace gemel {

bool PlacementCore::MayComeBack() const {
  return std::any_of(members_.begin(), members_.end(), [this](const auto& entry) {
    const MemberEntry& member = *entry.second;
    return !member.alive() && !draining_.contains(member.record.id) &&
           loop_->Now() < Add(member.dead_since, options_.liveness.forget_after);
  });
}

void PlacementCore::CollectDisks(Job* job, Committed* snapshot, Backlog* backlog) {
  if (!snapshot->persisted || snapshot->disk_settled || snapshot->persist.has_value() ||
      !AllReported(nullptr)) {
    return;
  }
  const SnapshotId& id = snapshot->record.snapshot;
  const uint32_t copies = std::max(1U, job->record.persist_copies);
  const HolderTable disks = DiskHoldersOf(*snapshot);
  RewriteTask task{.job = job, .order = OrderOf(id.epoch, id.sequence)};
  bool settled = true;
  for (task.rank = 0; task.rank < disks.size(); ++task.rank) {
    uint32_t staying = 0;
    for (const ServerId& server : disks[task.rank]) {
      staying += draining_.contains(server) ? 0 : 1;
    }
    if (staying >= copies) {
      LetPulledGo(snapshot, task.rank);
      continue;
    }
    settled = false;
    task.missing = copies - staying;
    const std::vector<ServerId> sources = RankSources(*snapshot, task.rank);
    if (sources.empty()) {
      continue;  // LostShards() and restores tell of it
    }
    task.bytes = CopyAt(*FindMember(sources.front()), {id, task.rank}).bytes;
    for (const ServerId& server : disks[task.rank]) {
      const auto left = backlog->draining.find(server);
      if (left != backlog->draining.end()) {
        left->second.persisted_shards += 1;
      }
    }
    if (!snapshot->leaving) {
      backlog->rewrites.push_back(task);
    }
  }
  snapshot->disk_settled = settled;
}

// What was pulled to be written is not written now: it pins its snapshot no longer.
void PlacementCore::LetPulledGo(Committed* snapshot, uint32_t rank) {
  GEMEL_CHECK_LT(rank, snapshot->record.world_size);
  std::erase_if(snapshot->rewrites, [rank](const auto& rewrite) {
    return rewrite.first.first == rank && rewrite.second == Rewrite::kPulling;
  });
}

void PlacementCore::IssueRewrites(Backlog* backlog) {
  if (backlog->rewrites.empty()) {
    return;
  }
  const std::string unread = UnknownDisks();
  if (!unread.empty() || MayComeBack()) {
    AddLine(&backlog->waiting, unread.empty() ? "a server that died may come back with its disk"
                                              : "disks that are not read yet: " + unread);
    for (const RewriteTask& task : backlog->rewrites) {
      LetPulledGo(&task.job->snapshots.at(task.order), task.rank);
    }
    return;
  }
  Room room;
  for (const auto& [id, member] : members_) {
    room[id] = RoomAt(*member);
  }
  for (const RewriteTask& task : backlog->rewrites) {
    IssueRewrite(task, &room, backlog);
  }
}

// A server with the shard in memory before one that has to pull it, the least busy first.
MemberEntry* PlacementCore::RewriteTarget(const RewriteTask& task, const Committed& snapshot,
                                          Room* room, std::string* why) {
  const ShardId shard{snapshot.record.snapshot, task.rank};
  const SnapshotKey key = KeyOf(shard.snapshot);
  MemberEntry* best = nullptr;
  auto best_cost = std::tuple(true, size_t{0}, uint64_t{0});
  for (const auto& [id, member] : members_) {
    const auto disk = member->disk.find(key);
    const bool has_it = disk != member->disk.end() && disk->second.contains(task.rank);
    if (!member->alive() || !member->reported || draining_.contains(id) || has_it ||
        snapshot.rewrites.contains({task.rank, id})) {
      continue;
    }
    const auto held = member->held.find(key);
    const bool in_memory = held != member->held.end() && held->second.contains(task.rank);
    if (!member->tier_trouble.empty() || member->tier_free_bytes < task.bytes) {
      *why += fmt::format(
          "{}{}: {}", why->empty() ? "" : "; ", member->record.name,
          member->tier_trouble.empty() ? "no room on its disk, or no tier" : member->tier_trouble);
    } else if (IsBarred(snapshot, {task.rank, id})) {
      *why += fmt::format("{}{}: {}", why->empty() ? "" : "; ", member->record.name,
                          snapshot.repair_failures.at({task.rank, id}).why);
    } else if (!in_memory && room->at(id) < task.bytes) {
      *why += fmt::format("{}{}: no room in memory to bring it through", why->empty() ? "" : "; ",
                          member->record.name);
    } else {
      const auto cost =
          std::tuple(!in_memory, member->persists + member->pulls, ~member->tier_free_bytes);
      if (best == nullptr || cost < best_cost) {
        best = member.get();
        best_cost = cost;
      }
    }
  }
  return best;
}

void PlacementCore::IssueRewrite(const RewriteTask& task, Room* room, Backlog* backlog) {
  Committed& snapshot = task.job->snapshots.at(task.order);
  const ShardId shard{snapshot.record.snapshot, task.rank};
  if (!LearnManifest(&snapshot)) {
    FetchManifest(&snapshot);
    AddLine(&backlog->waiting, "the manifest of " + shard.snapshot.ToString());
    return;
  }
  uint32_t under_way = 0;
  for (auto it = snapshot.rewrites.lower_bound({task.rank, ServerId()});
       it != snapshot.rewrites.end() && it->first.first == task.rank; ++it) {
    under_way += 1;
    MemberEntry* target = FindMember(it->first.second);
    const auto held = target->held.find(KeyOf(shard.snapshot));
    const bool here = held != target->held.end() && held->second.contains(task.rank);
    if (it->second == Rewrite::kPulling && here && target->persists < kPersistsMax) {
      WriteAgain(task, &snapshot, target);
    }
  }
  for (; under_way < task.missing; ++under_way) {
    std::string why;
    MemberEntry* target = RewriteTarget(task, snapshot, room, &why);
    if (target == nullptr) {
      AddLine(&backlog->blocked,
              fmt::format("{} lacks {} copies on disk and no further server can write one{}{}",
                          shard.ToString(), task.missing, why.empty() ? "" : ": ", why));
      return;
    }
    const auto held = target->held.find(KeyOf(shard.snapshot));
    const bool here = held != target->held.end() && held->second.contains(task.rank);
    if (target->persists >= kPersistsMax || (!here && target->pulls >= kPullsCalmMax)) {
      return;
    }
    if (here) {
      WriteAgain(task, &snapshot, target);
      continue;
    }
    room->at(target->record.id) -= task.bytes;
    snapshot.rewrites[{task.rank, target->record.id}] = Rewrite::kPulling;
    if (!snapshot.pulls.contains({task.rank, target->record.id})) {
      const RepairTask pull{.wanted = 0,
                            .job = task.job,
                            .order = task.order,
                            .rank = task.rank,
                            .bytes = task.bytes};
      PullTo(pull, target, RankSources(snapshot, task.rank), false);
    }
  }
}

void PlacementCore::WriteAgain(const RewriteTask& task, Committed* snapshot, MemberEntry* target) {
  const ShardId shard{snapshot->record.snapshot, task.rank};
  GEMEL_CHECK(target->alive() && snapshot->manifest != nullptr) << shard.ToString();
  const HeldCopy copy = target->held.at(KeyOf(shard.snapshot)).at(task.rank);
  QueuedDirective directive;
  pb::PersistShard* work = directive.body.mutable_persist_shard();
  HeldToProto(shard, copy, work->mutable_object());
  work->set_record(snapshot->encoded);
  directive.manifest = snapshot->manifest;
  snapshot->rewrites[{task.rank, target->record.id}] = Rewrite::kWriting;
  target->persists += 1;
  directive.done = [this, task, server = target->record.id,
                    copy](const pb::DirectiveResult& result) {
    WrittenAgain(task, server, copy, result);
  };
  Direct(target, std::move(directive));
}

void PlacementCore::WrittenAgain(const RewriteTask& task, const ServerId& server,
                                 const HeldCopy& copy, const pb::DirectiveResult& result) {
  MemberEntry* member = FindMember(server);
  GEMEL_CHECK(member != nullptr && member->persists > 0) << server.ToShort();
  member->persists -= 1;
  const auto found = task.job->snapshots.find(task.order);
  if (found == task.job->snapshots.end() || !found->second.persisted) {
    if (result.code() == 0) {
      DropPersistedAt(member, copy.snapshot);  // it was retired meanwhile
    }
    return;
  }
  Committed& snapshot = found->second;
  snapshot.rewrites.erase({task.rank, server});
  if (result.code() == 0) {
    member->disk[KeyOf(copy.snapshot)][task.rank] = copy;
    MarkPersistedAt(member, copy.snapshot);
    Emit(Severity::kInfo, "shard_rewritten",
         fmt::format("{} is on the disk of {} again", ShardId{copy.snapshot, task.rank}.ToString(),
                     member->record.name));
  } else {
    NoteFailure(&snapshot, {task.rank, server}, result.message());
  }
  MaintainSoon(task.job);
  task.job->changed.NotifyAll();
  ReviewRestoreSoon(task.job);
}

}  // namespace gemel
