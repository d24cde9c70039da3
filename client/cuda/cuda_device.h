// SPDX-License-Identifier: Apache-2.0
//
// CudaDriver and its devices.
//
// A device's primary context is what PyTorch and the CUDA runtime use too; it is made current for
// each call and put back, so a caller's thread keeps what it had. Streams are kept and used again.
//
// Thread safety: any thread; a stream one thread at a time.
// Ownership: a driver lives for ever, with its devices: CUDA may be gone before this process's
// static objects are.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "client/core/device.h"
#include "client/cuda/cuda_calls.h"
#include "common/mutex.h"

namespace gemel {

class CudaDevice final : public Device {
 public:
  // A stream of the device with an event for each copy that may be under way.
  struct Queue {
    CUstream stream = nullptr;
    std::vector<CUevent> events;
  };

  CudaDevice(const CudaCalls& calls, int ordinal, CUcontext context)
      : calls_(calls), ordinal_(ordinal), context_(context) {}

  absl::StatusOr<std::shared_ptr<void>> Pin(MutableByteSpan memory) override;
  absl::StatusOr<std::unique_ptr<DeviceStream>> StreamAfter(void* stream) override;

  // Runs `call` with this device's context current; what it was for is in the error's sentence.
  template <typename Call>
  absl::Status Run(std::string_view what, Call&& call) const {
    CUresult result = calls_.ctx_push_current(context_);
    if (result == CUDA_SUCCESS) {
      result = call(calls_);
      CUcontext popped = nullptr;
      calls_.ctx_pop_current(&popped);
    }
    return result == CUDA_SUCCESS ? absl::OkStatus() : Explain(result, what);
  }

  // Takes one back, on which nothing is under way.
  void GiveBack(Queue queue);
  // The same of one that failed: it is not used again.
  void Destroy(const Queue& queue) const;

 private:
  absl::Status Explain(CUresult result, std::string_view what) const;
  absl::StatusOr<Queue> TakeQueue();

  const CudaCalls& calls_;
  const int ordinal_;
  const CUcontext context_;
  Mutex mutex_;
  std::vector<Queue> idle_ GEMEL_GUARDED_BY(mutex_);
};

class CudaDriver {
 public:
  explicit CudaDriver(const CudaCalls& calls) : calls_(calls) {}

  // As CudaDeviceOf().
  absl::StatusOr<Device*> DeviceOf(const void* data);

 private:
  absl::StatusOr<Device*> At(int ordinal);

  const CudaCalls calls_;
  Mutex mutex_;
  std::map<int, std::unique_ptr<CudaDevice>> devices_ GEMEL_GUARDED_BY(mutex_);
};

}  // namespace gemel
