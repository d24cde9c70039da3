// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/server_fake_placement.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/control_protocol.h"
#include "common/errors.h"
#include "server/control.h"

namespace gemel::testing {
namespace {

constexpr Duration kTick = 5ms;

}  // namespace

Task<absl::StatusOr<std::string>> FakePlacement::Handle(std::shared_ptr<RpcCall>,
                                                        std::string method, std::string request) {
  calls[method] += 1;
  const uint32_t spoken = Parse<pb::GetStatusRequest>(request).caller().protocol_version();
  if (spoken > control_protocol) {  // every request begins with its caller
    co_return error::Unimplemented("control protocol {}, this placement {}", spoken,
                                   control_protocol);
  }
  if (std::deque<absl::Status>& failing = failures[method]; !failing.empty()) {
    absl::Status status = failing.front();
    failing.pop_front();
    if (!status.ok()) {
      co_return status;
    }
  }
  if (method == "Join") {
    co_return Join(Parse<pb::JoinRequest>(request)).SerializeAsString();
  }
  if (method == "Heartbeat") {
    const auto beat = Parse<pb::HeartbeatRequest>(request);
    Joined& member = members[beat.caller().server_id()];
    member.heartbeats += 1;
    member.caller = beat.caller();
    member.tier = beat.tier();
    member.unreachable.insert(beat.unreachable().begin(), beat.unreachable().end());
    pb::HeartbeatReply reply;
    reply.set_rejoin(std::exchange(member.rejoin, false));
    co_return reply.SerializeAsString();
  }
  if (method == "Directives") {
    co_return co_await Directives(std::move(request));
  }
  if (method == "WatchMap") {
    co_return co_await WatchMap(std::move(request));
  }
  if (method == "AcquireEpoch") {
    pb::AcquireEpochReply reply;
    WriteEpochId(epoch, reply.mutable_epoch());
    co_return reply.SerializeAsString();
  }
  if (method == "Open") {
    co_await loop_->Sleep(open_takes);
    co_return Open(Parse<pb::OpenRequest>(request)).SerializeAsString();
  }
  if (method == "ReportReceipts") {
    co_return Receipts(Parse<pb::ReportReceiptsRequest>(request)).SerializeAsString();
  }
  if (method == "AwaitCommit") {
    co_return co_await AwaitCommit(std::move(request));
  }
  if (method == "AbortSnapshot") {
    const auto abort = Parse<pb::AbortSnapshotRequest>(request);
    saves[abort.snapshot().sequence()].aborted = abort.why();
    co_return pb::AbortSnapshotReply().SerializeAsString();
  }
  co_return co_await HandleReads(std::move(method), std::move(request));
}

Task<absl::StatusOr<std::string>> FakePlacement::HandleReads(std::string method,
                                                             std::string request) {
  if (method == "BeginRestore") {
    co_return BeginRestore(Parse<pb::BeginRestoreRequest>(request)).SerializeAsString();
  }
  if (method == "ReportRestore") {
    restore_reports.push_back(Parse<pb::ReportRestoreRequest>(request));
    co_return pb::ReportRestoreReply().SerializeAsString();
  }
  if (method == "AwaitRestore") {
    pb::AwaitRestoreReply reply;
    reply.set_outcome(restore_reports.empty() ? pb::AwaitRestoreReply::PENDING
                                              : pb::AwaitRestoreReply::VERIFIED);
    co_return reply.SerializeAsString();
  }
  if (method == "BeginRead") {
    co_return co_await BeginRead(std::move(request));
  }
  if (method == "EndRead") {
    reads.erase(Parse<pb::EndReadRequest>(request).read_id());
    co_return pb::EndReadReply().SerializeAsString();
  }
  if (method == "ListSnapshots") {
    co_return ListSnapshots(Parse<pb::ListSnapshotsRequest>(request));
  }
  if (method == "RemoveSnapshots") {
    co_return RemoveSnapshots(Parse<pb::RemoveSnapshotsRequest>(request));
  }
  co_return error::Unimplemented("{}", method);
}

pb::JoinReply FakePlacement::Join(const pb::JoinRequest& request) {
  if (request.leader() != leader) {
    pb::JoinReply again;
    again.set_leader(leader);
    again.set_again(true);
    return again;
  }
  Joined& joined = members[request.caller().server_id()];
  joined.last_join = request;
  joined.joins += 1;
  joined.member.set_server_id(request.caller().server_id());
  joined.member.set_incarnation(request.caller().incarnation());
  joined.member.set_name(request.name());
  joined.member.set_domain(request.domain());
  joined.member.set_data_address(request.data_address());
  joined.member.set_state(pb::MEMBER_ALIVE);
  map_version += joins_change_map ? 1 : 0;
  pb::JoinReply reply;
  reply.set_cluster_id(cluster.ToBytes());
  reply.set_generation(generation);
  reply.set_term(term);
  reply.set_leader(leader);
  reply.set_heartbeat_ms(100);
  for (const auto& [id, member] : members) {
    reply.add_last_members(id);
  }
  return reply;
}

Task<absl::StatusOr<std::string>> FakePlacement::Directives(std::string raw) {
  const auto request = Parse<pb::DirectivesRequest>(raw);
  Joined& member = members[request.caller().server_id()];
  for (const pb::DirectiveResult& result : request.results()) {
    member.results[result.id()] = result;
    std::erase_if(member.directives,
                  [&result](const pb::Directive& one) { return one.id() == result.id(); });
  }
  const TimePoint until = Add(loop_->Now(), std::chrono::milliseconds(request.wait_ms()));
  while (member.directives.empty() && loop_->Now() < until) {
    co_await loop_->Sleep(kTick);
  }
  pb::DirectivesReply reply;
  reply.set_generation(generation);
  reply.set_term(member.older_leader ? 0 : term);
  reply.set_rejoin(std::exchange(member.rejoin_by_directives, false));
  for (const pb::Directive& directive : member.directives) {
    *reply.add_directives() = directive;
  }
  co_await loop_->Sleep(directives_take);
  co_return reply.SerializeAsString();
}

Task<absl::StatusOr<std::string>> FakePlacement::WatchMap(std::string raw) {
  const auto request = Parse<pb::WatchMapRequest>(raw);
  const TimePoint until = Add(loop_->Now(), std::chrono::milliseconds(request.wait_ms()));
  while (request.known_version() == map_version && loop_->Now() < until) {
    co_await loop_->Sleep(kTick);
  }
  pb::WatchMapReply reply;
  reply.mutable_map()->set_version(map_version);
  for (const auto& [id, member] : members) {
    if (!map_is_empty) {
      *reply.mutable_map()->add_members() = member.member;
    }
  }
  co_return reply.SerializeAsString();
}

pb::OpenReply FakePlacement::Open(const pb::OpenRequest& request) {
  pb::OpenReply reply;
  reply.set_decision(decision);
  reply.set_reason("because the test says so");
  if (decision != pb::OpenReply::ACCEPT) {
    return reply;
  }
  Save* save = nullptr;
  for (auto& [sequence, one] : saves) {
    if (one.open.name() == request.name() && one.open.attempt() == request.attempt()) {
      save = &one;
    }
  }
  if (save == nullptr) {
    const uint64_t sequence = next_sequence_++;
    save = &saves[sequence];
    save->open = request;
    save->id.set_job(request.job());
    *save->id.mutable_epoch() = request.epoch();
    save->id.set_sequence(sequence);
    save->id.set_name(request.name());
    save->id.set_attempt(request.attempt());
  }
  Rank& rank = save->ranks[request.rank()];
  rank.bytes = request.shard_bytes();
  rank.layout_bytes = request.layout_bytes();
  *reply.mutable_snapshot() = save->id;
  rank.holders = {request.caller().server_id()};
  *reply.add_holders() = members[request.caller().server_id()].member;
  for (const auto& [id, member] : members) {
    if (rank.holders.size() < request.copies() && !rank.holders.contains(id) &&
        !no_holders.contains(member.member.name())) {
      rank.holders.insert(id);
      *reply.add_holders() = member.member;
    }
  }
  return reply;
}

pb::ReportReceiptsReply FakePlacement::Receipts(const pb::ReportReceiptsRequest& request) {
  for (const pb::Receipt& receipt : request.receipts()) {
    const auto save = saves.find(receipt.object().shard().snapshot().sequence());
    if (save == saves.end()) {
      continue;
    }
    Rank& rank = save->second.ranks[receipt.object().shard().rank()];
    rank.root = receipt.object().root();
    rank.receipts.insert(request.caller().server_id());
    CommitWhenComplete(&save->second);
  }
  return std::exchange(receipts_reply, {});
}

void FakePlacement::CommitWhenComplete(Save* save) {
  if (save->committed || save->ranks.size() < save->open.world_size()) {
    return;
  }
  model::Manifest manifest;
  manifest.snapshot = ReadSnapshotId(save->id);
  model::CommitRecord record;
  for (const auto& [rank, shard] : save->ranks) {
    if (!std::includes(shard.receipts.begin(), shard.receipts.end(), shard.holders.begin(),
                       shard.holders.end())) {
      return;
    }
    manifest.shards.push_back(
        {*ReadDigestField(shard.root, "root"), shard.bytes, shard.layout_bytes});
    record.bytes += shard.bytes;
  }
  save->manifest = model::EncodeManifest(manifest);
  record.cluster = cluster;
  record.snapshot = manifest.snapshot;
  record.manifest_root = model::ManifestRoot(save->manifest);
  record.world_size = save->open.world_size();
  record.copies = save->open.copies();
  record.min_copies = save->open.copies();
  save->record = model::EncodeCommitRecord(record);
  save->committed = true;
  for (const auto& [id, member] : members) {
    pb::Directive directive;
    directive.mutable_store_commit()->set_record(save->record);
    directive.mutable_store_commit()->set_manifest(save->manifest);
    Direct(member.member.name(), std::move(directive));
  }
}

bool FakePlacement::RecordsStored(const Save& save) const {
  for (const auto& [id, member] : members) {
    for (const pb::Directive& directive : member.directives) {
      if (directive.has_store_commit() && directive.store_commit().record() == save.record) {
        return false;
      }
    }
  }
  return true;
}

Task<absl::StatusOr<std::string>> FakePlacement::AwaitCommit(std::string raw) {
  const auto request = Parse<pb::AwaitCommitRequest>(raw);
  const TimePoint until = Add(loop_->Now(), std::chrono::milliseconds(request.wait_ms()));
  const uint64_t sequence = request.snapshot().sequence();
  unsent.erase(request.caller().server_id());
  if (request.unsent()) {
    unsent.insert(request.caller().server_id());
  }
  if (!saves.contains(sequence)) {
    co_return error::NotFound("sequence {}", sequence);
  }
  const auto ended = [this, sequence] {
    const Save& save = saves.at(sequence);
    return !save.aborted.empty() || (save.committed && RecordsStored(save));
  };
  while (saves.contains(sequence) && !ended() && loop_->Now() < until) {
    co_await loop_->Sleep(kTick);
  }
  if (!saves.contains(sequence)) {
    co_return error::NotFound("sequence {} is forgotten", sequence);
  }
  const Save& save = saves.at(sequence);
  pb::AwaitCommitReply reply;
  if (!save.aborted.empty()) {
    reply.set_state(pb::SNAPSHOT_ABORTED);
    reply.set_code(static_cast<uint32_t>(absl::StatusCode::kAborted));
    reply.set_why(save.aborted);
  } else if (ended()) {
    reply.set_state(pb::SNAPSHOT_COMMITTED);
    reply.set_redundancy_full(!commits_closed_low);
    reply.set_closed(commits_closed_low);
    reply.set_copies(save.open.copies());
    reply.set_root(DigestBytes(model::ManifestRoot(save.manifest)));
  } else {
    reply.set_state(pb::SNAPSHOT_OPEN);
    reply.set_why("receipts are missing");
    for (const std::string& holder : save.ranks.at(request.rank()).holders) {
      *reply.add_holders() = members.at(holder).member;
    }
  }
  co_return reply.SerializeAsString();
}

pb::BeginRestoreReply FakePlacement::BeginRestore(const pb::BeginRestoreRequest&) {
  pb::BeginRestoreReply reply;
  Save* save = newest();
  reply.set_decision(save == nullptr ? pb::BeginRestoreReply::NEVER_COMMITTED : restore_decision);
  if (reply.decision() != pb::BeginRestoreReply::CHOSEN) {
    reply.set_progress("waiting for server-9");
    return reply;
  }
  Describe(*save, &reply);
  return reply;
}

void FakePlacement::Describe(const Save& save, auto* reply) {
  reply->set_record(save.record);
  reply->set_manifest(corrupt_manifest.empty() ? save.manifest : corrupt_manifest);
  for (const auto& [rank, shard] : save.ranks) {
    pb::ShardSources* sources = reply->add_sources();
    sources->set_rank(rank);
    for (const auto& [id, member] : members) {
      if (restore_names_all || shard.receipts.contains(id)) {
        *sources->add_holders() = member.member;
      }
    }
  }
}

Task<absl::StatusOr<std::string>> FakePlacement::BeginRead(std::string raw) {
  const auto request = Parse<pb::BeginReadRequest>(raw);
  co_await loop_->Sleep(read_takes);
  Save* found = nullptr;
  for (auto& [sequence, save] : saves) {
    const bool named = request.name().empty() || other_name || save.open.name() == request.name();
    found = save.committed && !save.dropped && named ? &save : found;
  }
  if (found == nullptr) {
    co_return error::NotFound("job {} has no snapshot '{}'; it has: none", request.job(),
                              request.name());
  }
  reads[request.read_id()] = found->id.sequence();
  pb::BeginReadReply reply;
  reply.set_decision(read_decision);
  if (read_decision == pb::BeginReadReply::CHOSEN) {
    Describe(*found, &reply);
  } else {
    reply.set_progress("waiting for server-9");
  }
  co_return reply.SerializeAsString();
}

absl::StatusOr<std::string> FakePlacement::ListSnapshots(
    const pb::ListSnapshotsRequest& request) const {
  pb::ListSnapshotsReply reply;
  // The newest first, which is not the order that a client is told.
  for (auto at = saves.rbegin(); at != saves.rend(); ++at) {
    const Save& save = at->second;
    if (save.open.job() != request.job() || save.dropped) {
      continue;
    }
    pb::SnapshotInfo* info = reply.add_snapshots();
    *info->mutable_snapshot() = save.id;
    info->set_state(save.committed ? pb::SNAPSHOT_COMMITTED : pb::SNAPSHOT_OPEN);
    info->set_world_size(save.open.world_size());
    info->set_bytes(save.ranks.at(0).bytes);
    info->set_committed_unix_s(1000 + static_cast<int64_t>(save.id.sequence()));
    info->set_persisted(save.id.sequence() == 1 ? pb::PERSIST_DONE : pb::PERSIST_RUNNING);
    info->set_in_memory(save.id.sequence() != 1);
  }
  if (reply.snapshots_size() == 0) {
    return error::NotFound("job {} is not known", request.job());
  }
  return reply.SerializeAsString();
}

absl::StatusOr<std::string> FakePlacement::RemoveSnapshots(
    const pb::RemoveSnapshotsRequest& request) {
  pb::RemoveSnapshotsReply reply;
  for (auto& [sequence, save] : saves) {
    if (save.open.job() == request.job() && save.open.name() == request.name() && !save.dropped) {
      save.dropped = true;
      reply.set_removed(reply.removed() + 1);
    }
  }
  if (reply.removed() == 0) {
    return error::NotFound("job {} has no snapshot '{}'; it has: none", request.job(),
                           request.name());
  }
  if (lose_removals > 0) {
    lose_removals -= 1;
    return error::Unavailable("the answer was lost");
  }
  return reply.SerializeAsString();
}

uint64_t FakePlacement::Direct(const std::string& server_name, pb::Directive directive) {
  const uint64_t id = next_directive_++;
  directive.set_id(id);
  named(server_name).directives.push_back(std::move(directive));
  return id;
}

const pb::DirectiveResult* FakePlacement::ResultOf(const std::string& server_name,
                                                   uint64_t id) const {
  for (const auto& [server, member] : members) {
    if (member.member.name() == server_name && member.results.contains(id)) {
      return &member.results.at(id);
    }
  }
  return nullptr;
}

FakePlacement::Joined& FakePlacement::named(const std::string& server_name) {
  for (auto& [id, member] : members) {
    if (member.member.name() == server_name) {
      return member;
    }
  }
  GEMEL_CHECK(false) << server_name << " has not joined";
  return members.begin()->second;
}

FakePlacement::Save* FakePlacement::newest() {
  Save* found = nullptr;
  for (auto& [sequence, save] : saves) {
    found = save.committed && !save.dropped ? &save : found;
  }
  return found;
}

pb::HeldObject FakePlacement::Held(const Save& save, uint32_t rank) const {
  pb::HeldObject held;
  *held.mutable_shard()->mutable_snapshot() = save.id;
  held.mutable_shard()->set_rank(rank);
  held.set_root(save.ranks.at(rank).root);
  held.set_bytes(save.ranks.at(rank).bytes);
  held.set_layout_bytes(save.ranks.at(rank).layout_bytes);
  held.set_token(save.open.token());
  return held;
}

}  // namespace gemel::testing
