// SPDX-License-Identifier: Apache-2.0
//
// Join: a server registers one incarnation by compare-and-set and reports what it holds.
#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"
#include "placement/model/cluster_map.h"

namespace gemel {
namespace {

constexpr Duration kCommitWait = 50ms;
constexpr size_t kDataAddressBytesMax = 1024;  // several of them, by commas

bool HasReceiptOf(const Attempt& attempt, const ServerId& id) {
  return std::any_of(attempt.slots.begin(), attempt.slots.end(), [&id](const RankSlot& slot) {
    return std::any_of(slot.receipts.begin(), slot.receipts.end(),
                       [&id](const SlotReceipt& receipt) { return receipt.server == id; });
  });
}

}  // namespace

absl::StatusOr<MemberRecord> PlacementCore::CheckJoin(const pb::JoinRequest& request) const {
  MemberRecord record;
  GEMEL_ASSIGN_OR_RETURN(record.id, ServerId::FromBytes(request.caller().server_id()));
  GEMEL_ASSIGN_OR_RETURN(record.incarnation,
                         Incarnation::FromBytes(request.caller().incarnation()));
  if (record.id.IsZero() || record.incarnation.IsZero()) {
    return error::InvalidArgument("a server joins with an id and an incarnation; one is zero");
  }
  GEMEL_RETURN_IF_ERROR(model::ValidateDomain(request.domain()));
  if (request.name().empty() || request.name().size() > 128 || request.data_address().empty() ||
      request.data_address().size() > kDataAddressBytesMax) {
    return error::InvalidArgument(
        "server {} joins with a name of {} and a data address of {} bytes; give both",
        record.id.ToShort(), request.name().size(), request.data_address().size());
  }
  if (request.generation() > cluster_.generation) {
    return error::FailedPrecondition(
        "server {} has seen generation {} of cluster {}, this placement has {}: its store is older "
        "than the cluster; rebuild it with `gemel placement recover --from-servers`",
        record.id.ToShort(), request.generation(), cluster_.cluster.ToHex(), cluster_.generation);
  }
  const auto found = members_.find(record.id);
  if (found == members_.end() && members_.size() >= model::kMembersMax) {
    return error::ResourceExhausted("the cluster has {} members, the most it can have",
                                    members_.size());
  }
  if (found != members_.end()) {
    record.superseded = found->second->record.superseded;
    record.recovered_generation = found->second->record.recovered_generation;
    if (std::find(record.superseded.begin(), record.superseded.end(), record.incarnation) !=
        record.superseded.end()) {
      return error::FailedPrecondition(
          "incarnation {} of server {} was superseded by {}; two servers with one data directory?",
          record.incarnation.ToShort(), record.id.ToShort(),
          found->second->record.incarnation.ToShort());
    }
  }
  record.name = request.name();
  record.domain = request.domain();
  record.data_address = request.data_address();
  record.capacity_bytes = request.capacity_bytes();
  return record;
}

// A server that has seen more of this generation than we have: our store was rolled back, and must
// not decide.
absl::Status PlacementCore::CheckReported(const pb::JoinRequest& request) const {
  const std::string way_out =
      "this placement's store is older than the cluster; rebuild it with `gemel placement recover "
      "--from-servers`";
  for (const pb::EpochSeen& seen : request.epochs()) {
    const auto found = jobs_.find(seen.job());
    const EpochId known = found == jobs_.end() ? EpochId() : found->second->record.epoch;
    if (FromProto(seen.epoch()) > known && seen.epoch().generation() >= cluster_.generation) {
      return error::FailedPrecondition(
          "server {} has seen epoch {} of job {}, known here is {}: {}", request.name(),
          FromProto(seen.epoch()).ToString(), seen.job(), known.ToString(), way_out);
    }
  }
  std::vector<std::string> records(request.commit_records().begin(),
                                   request.commit_records().end());
  records.insert(records.end(), request.persisted_records().begin(),
                 request.persisted_records().end());
  for (const std::string& bytes : records) {
    const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(bytes);
    if (!record.ok()) {
      continue;
    }
    const SnapshotId& id = record->snapshot;
    const auto found = jobs_.find(id.job);
    if (record->cluster == cluster_.cluster && id.epoch.generation >= cluster_.generation &&
        (found == jobs_.end() || id.sequence >= found->second->record.next_sequence)) {
      return error::FailedPrecondition("server {} keeps the commit of {}, unknown here: {}",
                                       request.name(), id.ToString(), way_out);
    }
  }
  return absl::OkStatus();
}

// True while a transaction that counts this server's receipts is under way (amendment 4).
bool PlacementCore::CommitCounts(const ServerId& id) const {
  for (const auto& [name, job] : jobs_) {
    for (const auto& [sequence, attempt] : job->attempts) {
      if (attempt->state == AttemptState::kCommitting && HasReceiptOf(*attempt, id)) {
        return true;
      }
    }
  }
  return false;
}

// Registers the incarnation durably. REQUIRES: map_lock_ is held.
Task<absl::Status> PlacementCore::Register(MemberRecord record) {
  MemberEntry* member = FindMember(record.id);
  if (member != nullptr && member->record.incarnation == record.incarnation && member->alive() &&
      member->version != 0 && member->record.data_address == record.data_address &&
      member->record.domain == record.domain && member->record.name == record.name) {
    member->record.capacity_bytes = record.capacity_bytes;
    co_return absl::OkStatus();
  }
  GEMEL_CHECK(!record.dead && !record.id.IsZero()) << record.name;
  const uint64_t version = member == nullptr ? 0 : member->version;
  const bool known = member != nullptr && member->known();
  if (known && member->record.incarnation != record.incarnation) {
    record.superseded.push_back(member->record.incarnation);
    if (record.superseded.size() > kSupersededMax) {
      record.superseded.erase(record.superseded.begin());
    }
  }
  const absl::Status written = co_await WriteMember(record, version, false);
  GEMEL_CO_RETURN_IF_ERROR(written);
  Reach(CrashPoint::kMemberDurable);
  member = FindMember(record.id);
  if (member == nullptr) {
    member = members_.emplace(record.id, std::make_unique<MemberEntry>(loop_)).first->second.get();
    member->next_directive = (leadership_->term() << 32) + 1;
  } else if (known && member->alive() && member->record.incarnation != record.incarnation) {
    Sometimes(Situation::kIncarnationSuperseded);
    Emit(Severity::kWarning, "incarnation_superseded",
         fmt::format("server {} ({}): incarnation {} is superseded by {}", record.name,
                     record.id.ToShort(), member->record.incarnation.ToShort(),
                     record.incarnation.ToShort()));
  }
  ForgetSoftState(member);
  if (member->record.incarnation != record.incarnation) {
    member->join = 0;
    DropReadsOf(record.id, member->record.incarnation);
  }
  member->record = std::move(record);
  member->version = cluster_version_;
  co_return absl::OkStatus();
}

// An inventory that was made before one that was taken since says nothing of now.
absl::Status PlacementCore::CheckNewest(const MemberRecord& record, uint64_t join) const {
  const auto found = members_.find(record.id);
  if (join == 0 || found == members_.end() ||
      found->second->record.incarnation != record.incarnation || join > found->second->join) {
    return absl::OkStatus();
  }
  return error::Unavailable("server {} has joined since with a newer inventory ({} after {})",
                            record.name, found->second->join, join);
}

// An inventory that was made before this leader was elected may come late, and what its server has
// sealed or lost since would not be known.
PlacementCore::Answer<pb::JoinReply> PlacementCore::Join(CallPtr, pb::JoinRequest request) {
  const std::string leader = leadership_->claim().ToBytes();
  if (request.has_leader() && request.leader() != leader) {
    pb::JoinReply again;
    again.set_leader(leader);
    again.set_again(true);
    co_return again;
  }
  if (recovering_) {
    const absl::Status taken = co_await TakeForRecovery(request);
    GEMEL_CO_RETURN_IF_ERROR(taken);
    GEMEL_CO_RETURN_IF_ERROR(CheckCaller(request.caller()));
  }
  GEMEL_CO_RETURN_IF_ERROR(CheckReported(request));
  GEMEL_CO_RETURN_IF_ERROR(co_await TakeLate(&request));
  const LockHold hold = co_await Lock(&map_lock_);
  GEMEL_CO_ASSIGN_OR_RETURN(MemberRecord record, CheckJoin(request));
  const ServerId id = record.id;
  GEMEL_CO_RETURN_IF_ERROR(CheckNewest(record, request.join()));
  while (!stopping_ && CommitCounts(id)) {
    Sometimes(Situation::kJoinWaits);
    co_await loop_->Sleep(kCommitWait);
  }
  MemberEntry* member = FindMember(id);
  if (member != nullptr) {
    // No commit that begins from here on counts the incarnation that goes.
    member->registering = member->record.incarnation != record.incarnation;
  }
  const absl::Status registered = co_await Register(std::move(record));
  member = FindMember(id);
  if (member != nullptr) {
    member->registering = false;
  }
  GEMEL_CO_RETURN_IF_ERROR(registered);
  GEMEL_CHECK(member != nullptr && member->alive()) << id.ToShort();
  GEMEL_CO_RETURN_IF_ERROR(TakeInventory(member, request));
  member->join = request.join();
  member->must_rejoin = false;  // first: what reconciling directs must not be dropped
  TakeBackReceipts(member);
  Reconcile(member, request);
  member->reported = !member->must_rejoin;
  Heard(member);
  MembersChanged();
  map_changed_.NotifyAll();
  Emit(Severity::kInfo, "member_joined",
       fmt::format("server {} ({}) at {} in {}, incarnation {}: {} snapshots, {} commit records",
                   member->record.name, id.ToShort(), member->record.data_address,
                   member->record.domain, member->record.incarnation.ToShort(), member->held.size(),
                   member->records.size()));
  pb::JoinReply reply;
  reply.set_cluster_id(cluster_.cluster.ToBytes());
  reply.set_generation(cluster_.generation);
  reply.set_term(ObeyedTerm());
  reply.set_leader(leadership_->claim().ToBytes());
  reply.set_map_version(cluster_.map_version);
  reply.set_heartbeat_ms(options_.liveness.heartbeat_ms);
  for (const auto& [other, entry] : members_) {
    if (entry->alive()) {
      reply.add_last_members(other.ToBytes());
    }
  }
  co_return reply;
}

}  // namespace gemel
