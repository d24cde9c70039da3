// SPDX-License-Identifier: Apache-2.0
#include "client/library/abi_cuda.h"

#include <atomic>

#include "client/cuda/cuda.h"
#include "client/library/abi_status.h"

namespace gemel {
namespace {

std::atomic<uint64_t> unpinned_bytes{0};

}  // namespace

absl::Status AppendCuda(Runtime* runtime, const std::shared_ptr<ShardFill>& fill, uint64_t offset,
                        const CudaSource& source) {
  if (source.bytes.empty()) {
    return fill->filler()->AppendAt(offset, {});
  }
  GEMEL_ASSIGN_OR_RETURN(Device * device, CudaDeviceOf(source.bytes.data()));
  std::optional<bool> pinned = fill->pinned();
  if (!pinned.has_value()) {
    auto pin = [fill, device]() { return ShardFill::Pin(fill, device); };
    GEMEL_ASSIGN_OR_RETURN(pinned, runtime->Call<bool>(pin, runtime->timeout(), nullptr));
  }
  GEMEL_ASSIGN_OR_RETURN(const std::unique_ptr<DeviceStream> stream,
                         device->StreamAfter(source.stream));
  if (!*pinned) {
    unpinned_bytes += source.bytes.size();
  }
  return fill->filler()->AppendFrom(stream.get(), offset, source.bytes);
}

}  // namespace gemel

gemel_status gemel_cuda_check() { return gemel::ToC(gemel::CheckCuda()); }

uint64_t gemel_cuda_unpinned_bytes() { return gemel::unpinned_bytes; }
