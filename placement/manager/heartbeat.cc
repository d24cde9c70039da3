// SPDX-License-Identifier: Apache-2.0
//
// Heartbeat: a member lives, says how full and how starved it is, and whom it cannot reach.
#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "placement/manager/core.h"

namespace gemel {

void PlacementCore::Heard(MemberEntry* member) {
  GEMEL_CHECK(member->alive()) << member->record.name;
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
  const absl::StatusOr<MemberEntry*> present = Present(request.caller());
  if (!present.ok()) {
    if (present.status().code() != absl::StatusCode::kFailedPrecondition) {
      co_return present.status();
    }
    reply.set_rejoin(true);
    reply.set_map_version(cluster_.map_version);
    co_return reply;
  }
  MemberEntry* member = *present;
  member->record.capacity_bytes = request.capacity_bytes();
  member->used_bytes = request.used_bytes();
  member->lag_ms = request.loop_lag_ms();
  TakeTierState(member, request.tier());
  for (const std::string& raw : request.unreachable()) {
    const absl::StatusOr<ServerId> id = ServerId::FromBytes(raw);
    MemberEntry* other = id.ok() ? FindMember(*id) : nullptr;
    if (other != nullptr && other != member && other->alive()) {
      Suspect(other, fmt::format("data session with {} was reset", member->record.name));
    }
  }
  reply.set_map_version(cluster_.map_version);
  co_return reply;
}

}  // namespace gemel
