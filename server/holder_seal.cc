// SPDX-License-Identifier: Apache-2.0
//
// PeerSeal: fence, digest, receipt.
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/fields.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "server/holder.h"

namespace gemel {

absl::StatusOr<Reply> Holder::OnPeerSeal(const IncomingRequest& request) {
  GEMEL_ASSIGN_OR_RETURN(const PeerSeal seal, DecodeMessage<PeerSeal>(request.body));
  const std::shared_ptr<Object> there = parts_.objects->Find(seal.shard);
  if (there != nullptr && there->state() == ObjectState::kSealed) {
    // A sender whose seal was not answered offers again first, but may do this as well.
    if (there->root() == seal.root) {
      return Reply();
    }
    return error::DataLoss("{} is sealed here under root {}, not {}", seal.shard.ToString(),
                           ToHex(there->root()), ToHex(seal.root));
  }
  const SnapshotId& snapshot = seal.shard.snapshot;
  GEMEL_RETURN_IF_ERROR(parts_.identity->CheckEpoch(snapshot.job, snapshot.epoch));
  const auto granted = grants_.find(seal.shard);
  if (granted == grants_.end() || granted->second.grant.region != request.header.region) {
    return error::NotFound("{} has no grant {} here: offer it again", seal.shard.ToString(),
                           request.header.region);
  }
  GEMEL_ASSIGN_OR_RETURN(const RegionTable::Closed closed,
                         regions_.Close(request.header.region, request.header.generation));
  EndLimit(request.header.region);
  Reach(CrashPoint::kSealFenced);
  GEMEL_RETURN_IF_ERROR(SealGrant(seal, closed));
  return Reply();
}

// The region is closed: nobody writes any more. On failure the memory waits for the next offer.
absl::Status Holder::SealGrant(const PeerSeal& seal, const RegionTable::Closed& closed) {
  const std::shared_ptr<Object> object = grants_.at(seal.shard).object;
  GEMEL_CHECK(object->state() == ObjectState::kStaging);
  if (!closed.complete) {
    return error::FailedPrecondition("{} of {} chunks of {} were not written: offer it again",
                                     closed.missing, object->chunks(), seal.shard.ToString());
  }
  GEMEL_CHECK_EQ(closed.digests.size(), object->chunks());
  for (uint32_t chunk = 0; chunk < object->chunks(); ++chunk) {
    object->SetPresent(chunk, closed.digests[chunk]);
  }
  absl::Status sealed = parts_.objects->Seal(object, seal.root);
  if (!sealed.ok()) {
    object->ForgetContent();
    seams_.events->Emit(Severity::kError, "seal_refused", ToText(sealed));
    return sealed;
  }
  Reach(CrashPoint::kSealHashed);
  grants_.erase(seal.shard);
  parts_.receipts->Add(*object);
  return absl::OkStatus();
}

}  // namespace gemel
