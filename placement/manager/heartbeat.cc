// SPDX-License-Identifier: Apache-2.0
//
// Heartbeat: a member lives, says how full and how starved it is, and whom it cannot reach.
#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"

namespace gemel {

// One that hears nothing can do no work, however well it is heard. When half of the members or more
// say so it is this placement whose words are lost, and nobody is judged by it.
bool PlacementCore::IsDeaf(const MemberEntry& member) const {
  if (!member.deaf) {
    return false;
  }
  size_t alive = 0;
  size_t deaf = 0;
  for (const auto& [id, other] : members_) {
    alive += other->in_service() ? 1 : 0;
    deaf += other->alive() && other->deaf ? 1 : 0;
  }
  GEMEL_CHECK_LE(deaf, alive);
  return 2 * deaf < alive;
}

void PlacementCore::Heard(MemberEntry* member) {
  GEMEL_CHECK(member->alive()) << member->record.name;
  if (IsDeaf(*member)) {
    return;
  }
  member->last_heard = loop_->Now();
  if (member->suspect_since.has_value()) {
    member->suspect_since.reset();
    Sometimes(Situation::kSuspicionCleared);
    Emit(Severity::kInfo, "suspicion_cleared",
         fmt::format("server {} is heard again", member->record.name));
  }
}

void PlacementCore::TakeTierState(MemberEntry* member, const pb::TierState& tier) {
  member->tier_free_bytes = tier.free_bytes();
  if (member->tier_trouble == tier.trouble()) {
    return;
  }
  member->tier_trouble = tier.trouble();
  const bool well = tier.trouble().empty();
  Emit(well ? Severity::kInfo : Severity::kWarning, well ? "tier_well" : "tier_trouble",
       fmt::format("server {}: {}", member->record.name,
                   well ? "its persistent tier works again" : tier.trouble()));
}

PlacementCore::Answer<pb::HeartbeatReply> PlacementCore::Heartbeat(CallPtr,
                                                                   pb::HeartbeatRequest request) {
  pb::HeartbeatReply reply;
  const absl::StatusOr<MemberEntry*> present = FindPresent(request.caller());
  if (!present.ok()) {
    if (present.status().code() != absl::StatusCode::kFailedPrecondition) {
      co_return present.status();
    }
    reply.set_rejoin(true);
    reply.set_map_version(cluster_.map_version);
    co_return reply;
  }
  MemberEntry* member = *present;
  member->deaf = request.unanswered() > 0;
  Heard(member);
  member->record.capacity_bytes = request.capacity_bytes();
  member->used_bytes = request.used_bytes();
  member->lag_ms = request.loop_lag_ms();
  member->map_version = request.map_version();
  TakeTierState(member, request.tier());
  for (const std::string& raw : request.unreachable()) {
    const absl::StatusOr<ServerId> id = ServerId::FromBytes(raw);
    MemberEntry* other = id.ok() ? FindMember(*id) : nullptr;
    if (other != nullptr && other != member && other->alive()) {
      Suspect(other, fmt::format("data session with {} was reset", member->record.name));
    }
  }
  reply.set_map_version(cluster_.map_version);
  // It calls with a generation once that is on its disk.
  if (cluster_.recovery_majority > 0 && request.caller().generation() == cluster_.generation) {
    member->has_generation = true;
    co_await SettleRecovery();
  }
  co_return reply;
}

}  // namespace gemel
