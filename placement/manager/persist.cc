// SPDX-License-Identifier: Apache-2.0
//
// Persisting: a committed snapshot goes to the disks of the servers that hold it, shard by shard,
// while it stays pinned in memory; when every shard has its persist receipts, PERSISTED is written
// (persisted.cc). It never holds up a save: one that fails, stands still when a newer one is due,
// or whose memory is needed is given up, with an event that says why (DESIGN 3.9, amendment 12).
#include <algorithm>
#include <tuple>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"

namespace gemel {
namespace {

constexpr Duration kRecheck = 200ms;
constexpr Duration kStandstill = 30s;    // without a shard done: a newer snapshot takes its turn
constexpr size_t kRunsOfKeepAll = 2;     // persists of one job at a time when it keeps all
constexpr size_t kRunsOfKeepLatest = 1;  // the newest is what counts

}  // namespace

// A snapshot was told: is it one of those that go to disk?
void PlacementCore::ConsiderPersist(Job* job, Committed* snapshot) {
  const TimePoint now = loop_->Now();
  const PersistPolicy& policy = snapshot->persist_policy;
  if (!job->persist_clock.has_value()) {
    job->persist_clock = now;
  }
  job->committed_since_persist += 1;
  const bool by_count = policy.every > 0 && job->committed_since_persist >= policy.every;
  const bool by_time =
      policy.interval > Duration{} && now >= Add(*job->persist_clock, policy.interval);
  if (by_count || by_time) {
    job->committed_since_persist = 0;
    job->persist_clock = now;
    snapshot->persist_due = true;
    StartDue(job);
  }
}

// A job that keeps all wants each of them on disk, the oldest first; any other the newest only.
void PlacementCore::StartDue(Job* job) {
  size_t running = 0;
  Committed* still = nullptr;
  std::vector<Committed*> due;
  for (auto& [order, snapshot] : job->snapshots) {
    if (snapshot.persist.has_value()) {
      running += 1;
      const bool stands = loop_->Now() >= Add(snapshot.persist->advanced, kStandstill);
      still = stands && !snapshot.persist->recording ? &snapshot : still;
    } else if (snapshot.persist_due && !snapshot.leaving) {
      due.push_back(&snapshot);
    }
  }
  if (due.empty()) {
    return;
  }
  const bool keeps_all = job->snapshots.rbegin()->second.record.keep_latest == 0;
  if (!keeps_all) {
    for (Committed* older : due) {
      older->persist_due = older == due.back();
    }
    due.erase(due.begin(), due.end() - 1);
  }
  const size_t runs_max = keeps_all ? kRunsOfKeepAll : kRunsOfKeepLatest;
  GEMEL_CHECK(!due.empty()) << job->name;
  size_t room = runs_max - std::min(runs_max, running);
  if (room == 0 && still != nullptr) {
    GiveUpPersist(job, still,
                  error::Unavailable("it stood still for {:.0f} s and a newer one is due; {}",
                                     Milliseconds(kStandstill) / 1e3, still->persist->waits_for));
    room = 1;
  }
  for (size_t i = 0; i < std::min(room, due.size()); ++i) {
    BeginPersist(job, due[i]);
  }
}

void PlacementCore::BeginPersist(Job* job, Committed* snapshot) {
  GEMEL_CHECK(!snapshot->persist.has_value() && !snapshot->persisted && snapshot->told &&
              !snapshot->leaving)
      << snapshot->record.snapshot.ToString();
  const SnapshotId& id = snapshot->record.snapshot;
  snapshot->persist_due = false;
  snapshot->persist_refused.clear();
  snapshot->persist = PersistRun{.number = ++persist_runs_,
                                 .advanced = loop_->Now(),
                                 .copies = std::max(1U, job->record.persist_copies)};
  PersistStep(job, OrderOf(id.epoch, id.sequence));
}

// Gives every shard that lacks a receipt to a server that can write it.
void PlacementCore::PersistStep(Job* job, const model::SnapshotOrder& order) {
  const auto found = job->snapshots.find(order);
  if (found == job->snapshots.end() || !found->second.persist.has_value() ||
      found->second.persist->recording) {
    return;
  }
  Committed& snapshot = found->second;
  PersistRun& run = *snapshot.persist;
  run.waits_for = "the manifest";
  if (!LearnManifest(&snapshot)) {
    FetchManifest(&snapshot);
    return;
  }
  run.waits_for.clear();
  run.done = 0;
  run.done_bytes = 0;
  const HolderTable holders = HoldersOf(snapshot);
  const HolderTable disks = DiskHoldersOf(snapshot);
  for (uint32_t rank = 0; rank < holders.size(); ++rank) {
    if (disks[rank].size() >= run.copies) {
      run.done += 1;
      run.done_bytes += snapshot.parsed->shards[rank].bytes;
    } else if (!PersistRank(&snapshot, rank, holders[rank], disks[rank])) {
      GiveUpPersist(
          job, &snapshot,
          error::Unavailable("no server can write the shard of rank {}: {}", rank, run.waits_for));
      return;
    }
  }
  if (run.done == snapshot.record.world_size) {
    if (loop_->Now() >= run.record_from) {
      run.recording = true;
      SpawnInside(RecordPersisted(job, order, run.number));
    } else {
      run.waits_for = run.record_refused;
    }
  }
  job->changed.NotifyAll();
}

bool PlacementCore::IsBeingWritten(const PersistRun& run, uint32_t rank) {
  const auto first = run.writing.lower_bound({rank, ServerId()});
  return first != run.writing.end() && first->first == rank;
}

// False when nobody is left to try: `waits_for` says why. The least busy holder first, so that the
// hosts share the work. While only some of the copies in memory are left, repair may bring more.
bool PlacementCore::PersistRank(Committed* snapshot, uint32_t rank,
                                const std::vector<ServerId>& holders,
                                const std::vector<ServerId>& disks) {
  PersistRun& run = *snapshot->persist;
  GEMEL_CHECK_LT(disks.size(), run.copies) << snapshot->record.snapshot.ToString();
  GEMEL_CHECK_LT(rank, snapshot->record.world_size) << snapshot->record.snapshot.ToString();
  size_t sought = run.copies - disks.size();
  std::string why;
  std::vector<MemberEntry*> able;
  for (const ServerId& id : holders) {
    MemberEntry* member = FindMember(id);
    const auto failed = run.failed.find({rank, id});
    if (run.writing.contains({rank, id})) {
      sought -= std::min<size_t>(sought, 1);
      if (!member->tier_trouble.empty()) {
        run.waits_for = fmt::format("{}: {}", member->record.name, member->tier_trouble);
      }
    } else if (failed != run.failed.end()) {
      why += fmt::format("{}{}: {}", why.empty() ? "" : "; ", member->record.name, failed->second);
    } else if (std::find(disks.begin(), disks.end(), id) == disks.end()) {
      able.push_back(member);
    }
  }
  const auto rank_of = [this](const MemberEntry* member) {
    return std::tuple(!member->tier_trouble.empty(), draining_.contains(member->record.id),
                      member->persists, member->record.id);
  };
  std::sort(able.begin(), able.end(), [&rank_of](const MemberEntry* a, const MemberEntry* b) {
    return rank_of(a) < rank_of(b);
  });
  const bool enough = able.size() >= sought;
  if (!enough) {
    CountCopies(snapshot);
    run.waits_for = why.empty()
                        ? fmt::format("{} servers hold it in memory, {} disks are asked for",
                                      holders.size(), run.copies)
                        : why;
  }
  const bool hope = enough || (holders.empty() ? IsBeingWritten(run, rank) : !snapshot->full);
  for (MemberEntry* member : able) {
    if (hope && sought > 0 && member->persists < kPersistsMax) {
      PersistShardAt(snapshot, rank, member);
      sought -= 1;
    }
  }
  return hope;
}

void PlacementCore::PersistShardAt(Committed* snapshot, uint32_t rank, MemberEntry* member) {
  const ShardId shard{snapshot->record.snapshot, rank};
  const HeldCopy& copy = member->held.at(KeyOf(shard.snapshot)).at(rank);
  PersistRun& run = *snapshot->persist;
  QueuedDirective directive;
  GEMEL_CHECK(member->alive() && member->persists < kPersistsMax) << member->record.name;
  pb::PersistShard* work = directive.body.mutable_persist_shard();
  HeldToProto(shard, copy, work->mutable_object());
  work->set_record(snapshot->encoded);
  directive.manifest = snapshot->manifest;
  run.writing.insert({rank, member->record.id});
  member->persists += 1;
  directive.done = [this, shard, number = run.number, copy,
                    server = member->record.id](const pb::DirectiveResult& result) {
    PersistShardDone(shard, number, copy, server, result);
  };
  Direct(member, std::move(directive));
}

// The result of a PersistShard: OK is the persist receipt.
void PlacementCore::PersistShardDone(const ShardId& shard, uint64_t run, const HeldCopy& copy,
                                     const ServerId& server, const pb::DirectiveResult& result) {
  MemberEntry* member = FindMember(server);
  GEMEL_CHECK(member != nullptr && member->persists > 0) << server.ToShort();
  member->persists -= 1;
  const auto code = static_cast<absl::StatusCode>(result.code());
  const auto held = member->held.find(KeyOf(shard.snapshot));
  const bool counted = held != member->held.end() && held->second.contains(shard.rank);
  if (counted && (code == absl::StatusCode::kDataLoss || code == absl::StatusCode::kNotFound)) {
    CopyGone(member, shard, result.message());  // the server found it so, and has dropped it
  }
  Job* job = FindJob(shard.snapshot.job);
  const auto order = OrderOf(shard.snapshot.epoch, shard.snapshot.sequence);
  const auto found = job->snapshots.find(order);
  if (found == job->snapshots.end() || !found->second.persist.has_value() ||
      found->second.persist->number != run) {
    // Given up meanwhile. The server was told to drop it, unless it had other shards of it; but the
    // two directives may have run in any order.
    const bool again = found != job->snapshots.end() && found->second.persist.has_value() &&
                       found->second.persist->writing.contains(std::pair(shard.rank, server));
    const auto kept = member->disk.find(KeyOf(shard.snapshot));
    if (result.code() == 0 && kept != member->disk.end()) {
      kept->second[shard.rank] = copy;
    } else if (result.code() == 0 && !again) {
      DropPersistedAt(member, shard.snapshot);
    }
    return;
  }
  const std::pair<uint32_t, ServerId> from{shard.rank, server};
  found->second.persist->writing.erase(from);
  if (result.code() == 0) {
    member->disk[KeyOf(shard.snapshot)][shard.rank] = copy;
    found->second.persist->advanced = loop_->Now();
  } else {
    found->second.persist->failed[from] = result.message();
  }
  PersistStep(job, order);
  ReviewRestoreSoon(job);
}

// What is being written is dropped. What is whole on a disk may be the only copy there is when
// servers died: SweepDisks() judges that once all have reported.
void PlacementCore::GiveUpPersist(Job* job, Committed* snapshot, const absl::Status& why) {
  GEMEL_CHECK(snapshot->persist.has_value()) << snapshot->record.snapshot.ToString();
  const SnapshotId& id = snapshot->record.snapshot;
  const std::set<std::pair<uint32_t, ServerId>> writing = std::move(snapshot->persist->writing);
  snapshot->persist.reset();
  snapshot->persist_refused = std::string(MessageOf(why));
  Sometimes(Situation::kPersistGivenUp);
  persists_given_up_.Add(1);
  Emit(Severity::kWarning, "persist_given_up",
       fmt::format("{} does not go to disk: {}. Saves go on", id.ToString(),
                   snapshot->persist_refused));
  for (const auto& [rank, server] : writing) {
    MemberEntry* member = FindMember(server);
    if (member != nullptr && !member->disk.contains(KeyOf(id))) {
      DropPersistedAt(member, id);
    }
  }
  job->changed.NotifyAll();
  MaintainSoon(job);
}

// Frees what only a persist keeps in this member's memory. True when there was anything.
bool PlacementCore::GiveUpPersistsFor(const MemberEntry& member, const SnapshotId& needed_for) {
  bool any = false;
  for (auto& [name, job] : jobs_) {
    for (auto& [order, snapshot] : job->snapshots) {
      const bool newest = order == job->snapshots.rbegin()->first;
      if (!newest && snapshot.persist.has_value() && !snapshot.persist->recording &&
          member.held.contains(KeyOf(snapshot.record.snapshot))) {
        any = true;
        GiveUpPersist(job.get(), &snapshot,
                      error::ResourceExhausted("its memory at {} is needed to save {}",
                                               member.record.name, needed_for.ToString()));
      }
    }
  }
  return any;
}

void PlacementCore::FillPersistProgress(const Committed& snapshot,
                                        pb::PersistSnapshotReply* reply) const {
  ToProto(snapshot.record.snapshot, reply->mutable_snapshot());
  reply->set_state(PersistStateOf(snapshot));
  reply->set_shards(snapshot.record.world_size);
  reply->set_bytes(snapshot.record.bytes);
  reply->set_shards_done(snapshot.persisted ? snapshot.record.world_size : 0);
  reply->set_bytes_done(snapshot.persisted ? snapshot.record.bytes : 0);
  if (snapshot.persist.has_value()) {
    reply->set_shards_done(snapshot.persist->done);
    reply->set_bytes_done(snapshot.persist->done_bytes);
    reply->set_detail(snapshot.persist->waits_for);
  }
}

pb::PersistState PlacementCore::PersistStateOf(const Committed& snapshot) {
  if (snapshot.persisted) {
    return pb::PERSIST_DONE;
  }
  return snapshot.persist.has_value() ? pb::PERSIST_RUNNING : pb::PERSIST_NONE;
}

// By hand. Held until it is done or the call's time is over; asked again it goes on.
PlacementCore::Answer<pb::PersistSnapshotReply> PlacementCore::PersistSnapshot(
    CallPtr call, pb::PersistSnapshotRequest request) {
  GEMEL_CO_RETURN_IF_ERROR(CheckServing());
  GEMEL_CO_ASSIGN_OR_RETURN(Job * job, KnownJob(request.job()));
  GEMEL_CO_ASSIGN_OR_RETURN(const Committed* chosen, FindSnapshot(job, request.name()));
  const SnapshotId id = chosen->record.snapshot;
  const auto order = OrderOf(id.epoch, id.sequence);
  const TimePoint deadline = HoldUntil(request.wait_ms());
  bool began = false;
  while (true) {
    const auto found = job->snapshots.find(order);
    if (found == job->snapshots.end()) {
      co_return error::NotFound("{} was retired before it was on disk", id.ToString());
    }
    Committed& snapshot = found->second;
    if (!began && snapshot.told && !snapshot.leaving &&
        PersistStateOf(snapshot) == pb::PERSIST_NONE) {
      BeginPersist(job, &snapshot);
      began = true;
      continue;
    }
    if (began && PersistStateOf(snapshot) == pb::PERSIST_NONE) {
      co_return error::FailedPrecondition("{} does not go to disk: {}", id.ToString(),
                                          snapshot.persist_refused);
    }
    began = began || snapshot.persist.has_value();
    if (snapshot.persisted || stopping_ || call->cancelled() || loop_->Now() >= deadline) {
      pb::PersistSnapshotReply reply;
      FillPersistProgress(snapshot, &reply);
      co_return reply;
    }
    const TimePoint recheck = Add(loop_->Now(), kRecheck);
    co_await job->changed.WaitUntil(std::min(deadline, recheck));
  }
}

}  // namespace gemel
