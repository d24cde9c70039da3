// SPDX-License-Identifier: Apache-2.0
#include "placement/manager/wire.h"

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "placement/model/records.h"

namespace gemel {

EpochId FromProto(const pb::EpochId& epoch) {
  return {.generation = epoch.generation(), .counter = epoch.counter()};
}

StrategyChoice StrategyOf(pb::Strategy strategy) {
  GEMEL_CHECK(pb::Strategy_IsValid(strategy)) << static_cast<int>(strategy);
  return strategy == pb::STRATEGY_RING ? StrategyChoice::kRing : StrategyChoice::kGroup;
}

absl::StatusOr<SnapshotId> FromProto(const pb::SnapshotId& id) {
  GEMEL_RETURN_IF_ERROR(model::CheckJobName(id.job()));
  GEMEL_RETURN_IF_ERROR(model::CheckSnapshotName(id.name()));
  if (id.sequence() == 0 || id.sequence() > model::kCounterMax ||
      !model::IsEpochInRange(FromProto(id.epoch()))) {
    return error::InvalidArgument(
        "snapshot {}@{} has sequence {} and epoch {}; sequences begin at 1", id.job(), id.name(),
        id.sequence(), FromProto(id.epoch()).ToString());
  }
  return SnapshotId{.job = id.job(),
                    .epoch = FromProto(id.epoch()),
                    .sequence = id.sequence(),
                    .name = id.name(),
                    .attempt = id.attempt()};
}

absl::StatusOr<Digest128> DigestFromBytes(const std::string& bytes, std::string_view what) {
  if (bytes.size() != kDigestBytes) {
    return error::InvalidArgument("{} has {} bytes; a digest has {}", what, bytes.size(),
                                  kDigestBytes);
  }
  return DecodeDigest(bytes.data());
}

void ToProto(const EpochId& epoch, pb::EpochId* out) {
  out->set_generation(epoch.generation);
  out->set_counter(epoch.counter);
}

void ToProto(const SnapshotId& id, pb::SnapshotId* out) {
  GEMEL_CHECK_GT(id.sequence, 0U) << id.ToString();
  out->set_job(id.job);
  ToProto(id.epoch, out->mutable_epoch());
  out->set_sequence(id.sequence);
  out->set_name(id.name);
  out->set_attempt(id.attempt);
}

std::string DigestToBytes(const Digest128& digest) {
  std::string bytes(kDigestBytes, '\0');
  EncodeDigest(digest, bytes.data());
  return bytes;
}

}  // namespace gemel
