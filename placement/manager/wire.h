// SPDX-License-Identifier: Apache-2.0
//
// Between the messages of proto/gemel/v1 and the types of common/. Total: what a peer sends gives a
// value or InvalidArgument naming the field.
//
// Thread safety: pure functions.
#pragma once

#include <string>

#include "absl/status/statusor.h"

#include "common/digest.h"
#include "common/ids.h"
#include "common/strategy.h"
#include "gemel/v1/placement.pb.h"

namespace gemel {

namespace pb = ::gemel::v1;

EpochId FromProto(const pb::EpochId& epoch);
// InvalidArgument for a job or snapshot name that records do not take, or a sequence of 0.
absl::StatusOr<SnapshotId> FromProto(const pb::SnapshotId& id);
// REQUIRES: pb::Strategy_IsValid(strategy).
StrategyChoice StrategyOf(pb::Strategy strategy);
absl::StatusOr<Digest128> DigestFromBytes(const std::string& bytes, std::string_view what);

void ToProto(const EpochId& epoch, pb::EpochId* out);
void ToProto(const SnapshotId& id, pb::SnapshotId* out);
std::string DigestToBytes(const Digest128& digest);

}  // namespace gemel
