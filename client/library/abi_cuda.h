// SPDX-License-Identifier: Apache-2.0
//
// The way of CUDA memory into a shard, the same for writers and stages.
#pragma once

#include <memory>

#include "client/core/shard_fill.h"
#include "client/library/runtime.h"

namespace gemel {

// Device memory, as it is after all that `stream` was given so far.
struct CudaSource {
  ByteSpan bytes;  // addresses of the device: nothing here may be read
  void* stream = nullptr;
};

// Appends it; when it returns the source may change. Counts what went through memory that the
// driver would not register.
absl::Status AppendCuda(Runtime* runtime, const std::shared_ptr<ShardFill>& fill, uint64_t offset,
                        const CudaSource& source);

}  // namespace gemel
