// SPDX-License-Identifier: Apache-2.0
//
// SnapshotSource: one committed snapshot to read from. ClientSource is the cluster's; tests have
// their own.
//
// Thread safety: one thread.
#pragma once

#include <span>

#include "absl/status/status.h"

#include "client/archive/export_record.h"
#include "gemel/client.h"

namespace gemel::archive {

class SnapshotSource {
 public:
  virtual ~SnapshotSource() = default;
  virtual const SnapshotFacts& facts() const = 0;
  // All ranges at once, each byte verified before it is copied. DataLoss, Unavailable.
  virtual absl::Status Read(std::span<const Range> ranges) = 0;
};

}  // namespace gemel::archive
