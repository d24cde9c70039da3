// SPDX-License-Identifier: Apache-2.0
//
// Windows of a tensor: assembled from the pieces of a snapshot, or cut into pieces again.
//
// Thread safety: one thread. Memory: two windows, kept between calls.
#pragma once

#include <vector>

#include "absl/status/statusor.h"

#include "client/archive/export_plan.h"
#include "common/bytes.h"

namespace gemel::archive {

class WindowReader {
 public:
  // Elements [first, last) of the tensor; valid until the next call. Each byte is read once.
  // DataLoss when the bytes are gone. REQUIRES: what PlanExport() checked.
  absl::StatusOr<ByteSpan> Read(SnapshotSource* source, const TensorSource& tensor, uint64_t first,
                                uint64_t last);

 private:
  std::vector<std::byte> window_;
  std::vector<std::byte> staged_;  // pieces of which the window is not one run
};

// Copies elements [first, last) of `box`, which `piece` begins with, to their places in `window`,
// which begins with element `window_first` of the tensor.
void Scatter(const Box& box, uint64_t first, uint64_t last, uint64_t item, ByteSpan piece,
             uint64_t window_first, MutableByteSpan window);

// The reverse: from the window to the piece.
void Gather(const Box& box, uint64_t first, uint64_t last, uint64_t item, MutableByteSpan piece,
            uint64_t window_first, ByteSpan window);

}  // namespace gemel::archive
