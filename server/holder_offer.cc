// SPDX-License-Identifier: Apache-2.0
//
// Offer: another server asks for staging memory. Admission, the grant, and what ends it.
#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/fields.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "placement/model/records.h"
#include "server/holder.h"

namespace gemel {
namespace {

absl::Status CheckOffer(const Offer& offer) {
  GEMEL_RETURN_IF_ERROR(model::CheckJobName(offer.shard.snapshot.job));
  GEMEL_RETURN_IF_ERROR(model::CheckSnapshotName(offer.shard.snapshot.name));
  if (offer.bytes == 0 || offer.layout_bytes > offer.bytes) {
    return error::InvalidArgument("{} is offered with {} bytes and a layout of {}",
                                  offer.shard.ToString(), offer.bytes, offer.layout_bytes);
  }
  return absl::OkStatus();
}

}  // namespace

Task<absl::StatusOr<Reply>> Holder::OnOffer(std::shared_ptr<Session> session,
                                            IncomingRequest request) {
  GEMEL_CO_ASSIGN_OR_RETURN(const Offer offer, DecodeMessage<Offer>(request.body));
  GEMEL_CO_RETURN_IF_ERROR(CheckOffer(offer));
  const SnapshotId& snapshot = offer.shard.snapshot;
  GEMEL_CO_RETURN_IF_ERROR(parts_.identity->CheckEpoch(snapshot.job, snapshot.epoch));
  GEMEL_CO_RETURN_IF_ERROR(co_await parts_.identity->SeeEpoch(snapshot.job, snapshot.epoch));
  GEMEL_CO_RETURN_IF_ERROR(parts_.identity->CheckEpoch(snapshot.job, snapshot.epoch));
  // Staging of a superseded epoch goes when the new one is seen (DESIGN 3.7), however it is seen.
  DropStagingBelow(snapshot.job, snapshot.epoch);
  if (std::find(sessions_.begin(), sessions_.end(), session) == sessions_.end()) {
    co_return error::Unavailable("the session ended while {} was admitted", offer.shard.ToString());
  }
  OfferReply answer;
  const std::shared_ptr<Object> there = parts_.objects->Find(offer.shard);
  if (there != nullptr && there->state() == ObjectState::kSealed) {
    Sometimes(Situation::kSealedAgain);  // the answer to an earlier seal was lost
    answer.already_sealed = true;
    answer.root = there->root();
  } else {
    GEMEL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Object> object, StagingFor(offer));
    GEMEL_CHECK(!grants_.contains(offer.shard)) << offer.shard.ToString();
    Granted granted;
    granted.grant =
        regions_.Open(object->Extents(), offer.bytes, StateOf(session.get())->hello.incarnation);
    granted.object = std::move(object);
    answer.region = granted.grant.region;
    answer.generation = granted.grant.generation;
    answer.limit = offer.limit;
    if (offer.limit == GrantLimit::kCredit) {
      LimitGrant(granted.grant, granted.object->chunks());
    }
    grants_[offer.shard] = std::move(granted);
  }
  Reply reply;
  reply.body = EncodeMessage(answer);
  co_return reply;
}

// Memory for the copy: that of the grant which this offer ends, or new.
absl::StatusOr<std::shared_ptr<Object>> Holder::StagingFor(const Offer& offer) {
  const auto granted = grants_.find(offer.shard);
  if (granted == grants_.end()) {
    Object::Shape shape;
    shape.shard = offer.shard;
    shape.token = offer.token;
    shape.bytes = offer.bytes;
    shape.layout_bytes = offer.layout_bytes;
    return parts_.objects->Stage(std::move(shape), kServerHolder);
  }
  std::shared_ptr<Object> object = granted->second.object;
  if (object->bytes() != offer.bytes || object->layout_bytes() != offer.layout_bytes ||
      object->token() != offer.token) {
    return error::AlreadyExists("{} was offered with {} bytes before, now with {}",
                                offer.shard.ToString(), object->bytes(), offer.bytes);
  }
  Sometimes(Situation::kOfferedAgain);
  const bool ended = EndGrant(offer.shard);
  GEMEL_CHECK(ended);
  object->ForgetContent();
  return object;
}

// The fence without a seal; false when there is no grant. The object stays where it is.
bool Holder::EndGrant(const ShardId& shard) {
  const auto granted = grants_.find(shard);
  if (granted == grants_.end()) {
    return false;
  }
  const Grant grant = granted->second.grant;
  grants_.erase(granted);
  EndLimit(grant.region);
  if (regions_.Contains(grant.region)) {
    const auto closed = regions_.Close(grant.region, grant.generation);
    GEMEL_CHECK(closed.ok()) << closed.status().ToString();
  }
  GEMEL_CHECK_LE(regions_.size(), grants_.size()) << "a region without a grant";
  return true;
}

absl::StatusOr<Reply> Holder::OnRevoke(const IncomingRequest& request) {
  GEMEL_ASSIGN_OR_RETURN(const Revoke revoke, DecodeMessage<Revoke>(request.body));
  const auto granted = grants_.find(revoke.shard);
  if (granted == grants_.end() || granted->second.grant.region != request.header.region ||
      granted->second.grant.generation != request.header.generation) {
    return error::NotFound("{} has no grant {} here", revoke.shard.ToString(),
                           request.header.region);
  }
  const std::shared_ptr<Object> object = granted->second.object;
  EndGrant(revoke.shard);
  parts_.objects->DropObject(object);
  return Reply();
}

void Holder::DropStagingOf(const ShardId& shard) {
  const std::shared_ptr<Object> object = parts_.objects->Find(shard);
  if (object != nullptr && EndGrant(shard)) {
    parts_.objects->DropObject(object);
  }
}

void Holder::DropStaging(const SnapshotId& snapshot) {
  for (const std::shared_ptr<Object>& object : parts_.objects->OfSnapshot(snapshot)) {
    DropStagingOf(object->shard());
  }
}

void Holder::DropStagingBelow(const std::string& job, const EpochId& epoch) {
  for (const std::shared_ptr<Object>& object : parts_.objects->StagingBelow(job, epoch)) {
    DropStagingOf(object->shard());
  }
}

}  // namespace gemel
