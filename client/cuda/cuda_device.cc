// SPDX-License-Identifier: Apache-2.0
#include "client/cuda/cuda_device.h"

#include <utility>

#include "client/cuda/cuda.h"
#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

CUdeviceptr AddressOf(const void* data) { return reinterpret_cast<CUdeviceptr>(data); }

class CudaStream final : public DeviceStream {
 public:
  CudaStream(CudaDevice* device, CudaDevice::Queue queue)
      : device_(device), queue_(std::move(queue)) {}

  ~CudaStream() override {
    GEMEL_CHECK_EQ(started_, ended_);
    if (failed_) {
      device_->Destroy(queue_);
    } else {
      device_->GiveBack(std::move(queue_));
    }
  }

  absl::Status Start(MutableByteSpan into, const std::byte* from) override {
    GEMEL_CHECK_LT(started_ - ended_, queue_.events.size());
    const CUevent copied = queue_.events[started_ % queue_.events.size()];
    // Counted before it is known to be under way: a failed event leaves a copy that Drain() must
    // wait for.
    started_ += 1;
    return Note(device_->Run("copying from", [&](const CudaCalls& calls) {
      const CUresult result =
          calls.memcpy_dtoh_async(into.data(), AddressOf(from), into.size(), queue_.stream);
      return result == CUDA_SUCCESS ? calls.event_record(copied, queue_.stream) : result;
    }));
  }

  absl::Status AwaitOldest() override {
    GEMEL_CHECK_LT(ended_, started_);
    const CUevent copied = queue_.events[ended_ % queue_.events.size()];
    absl::Status status = Note(device_->Run(
        "copying from", [&](const CudaCalls& calls) { return calls.event_synchronize(copied); }));
    ended_ += status.ok() ? 1 : 0;
    return status;
  }

  void Drain() override {
    // When this fails the context is lost, and with it everything that was under way.
    Note(device_->Run("waiting for", [&](const CudaCalls& calls) {
      return calls.stream_synchronize(queue_.stream);
    })).IgnoreError();
    ended_ = started_;
  }

 private:
  absl::Status Note(absl::Status status) {
    failed_ = failed_ || !status.ok();
    return status;
  }

  CudaDevice* const device_;
  CudaDevice::Queue queue_;
  size_t started_ = 0;
  size_t ended_ = 0;
  bool failed_ = false;
};

// Makes its stream and events one by one, so that a failure leaves what is to be given back.
CUresult Make(const CudaCalls& calls, CudaDevice::Queue* queue) {
  CUresult result = calls.stream_create(&queue->stream, CU_STREAM_NON_BLOCKING);
  while (result == CUDA_SUCCESS && queue->events.size() < DeviceStream::kUnderWayMax) {
    CUevent made = nullptr;
    // Who waits sleeps: the processors are the training's.
    result = calls.event_create(&made, CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING);
    if (result == CUDA_SUCCESS) {
      queue->events.push_back(made);
    }
  }
  return result;
}

absl::StatusOr<CudaDriver*> Driver() {
  static const absl::StatusOr<CudaCalls> kLoaded = LoadCudaFrom("libcuda.so.1");
  if (!kLoaded.ok()) {
    return kLoaded.status();
  }
  static CudaDriver* const kDriver = new CudaDriver(*kLoaded);
  return kDriver;
}

}  // namespace

absl::Status CudaDevice::Explain(CUresult result, std::string_view what) const {
  return CudaStatus(calls_, result, fmt::format("{} CUDA device {}", what, ordinal_));
}

absl::StatusOr<std::shared_ptr<void>> CudaDevice::Pin(MutableByteSpan memory) {
  GEMEL_RETURN_IF_ERROR(Run("registering memory with", [&](const CudaCalls& calls) {
    // For all devices of the process.
    return calls.mem_host_register(memory.data(), memory.size(), CU_MEMHOSTREGISTER_PORTABLE);
  }));
  const auto unpin = [this](std::byte* data) {
    // At the end of a process the driver may be gone, and the registration with it.
    Run("unregistering memory with", [&](const CudaCalls& calls) {
      return calls.mem_host_unregister(data);
    }).IgnoreError();
  };
  return std::shared_ptr<void>(std::shared_ptr<std::byte>(memory.data(), unpin));
}

absl::StatusOr<CudaDevice::Queue> CudaDevice::TakeQueue() {
  {
    MutexLock lock(&mutex_);
    if (!idle_.empty()) {
      Queue queue = std::move(idle_.back());
      idle_.pop_back();
      return queue;
    }
  }
  Queue queue;
  absl::Status made =
      Run("making a stream on", [&](const CudaCalls& calls) { return Make(calls, &queue); });
  if (!made.ok()) {
    Destroy(queue);
    return made;
  }
  return queue;
}

void CudaDevice::Destroy(const Queue& queue) const {
  Run("freeing a stream of", [&](const CudaCalls& calls) {
    for (CUevent made : queue.events) {
      calls.event_destroy(made);
    }
    return queue.stream != nullptr ? calls.stream_destroy(queue.stream) : CUDA_SUCCESS;
  }).IgnoreError();
}

void CudaDevice::GiveBack(Queue queue) {
  MutexLock lock(&mutex_);
  idle_.push_back(std::move(queue));
}

absl::StatusOr<std::unique_ptr<DeviceStream>> CudaDevice::StreamAfter(void* stream) {
  GEMEL_ASSIGN_OR_RETURN(Queue queue, TakeQueue());
  absl::Status ordered = Run("waiting for a stream of", [&](const CudaCalls& calls) {
    const CUevent reached = queue.events.front();
    const CUresult result = calls.event_record(reached, static_cast<CUstream>(stream));
    return result == CUDA_SUCCESS ? calls.stream_wait_event(queue.stream, reached, 0) : result;
  });
  if (!ordered.ok()) {
    Destroy(queue);
    return ordered;
  }
  return std::unique_ptr<DeviceStream>(new CudaStream(this, std::move(queue)));
}

absl::StatusOr<Device*> CudaDriver::DeviceOf(const void* data) {
  CUmemorytype kind{};
  int ordinal = 0;
  CUresult result =
      calls_.pointer_get_attribute(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, AddressOf(data));
  if (result == CUDA_SUCCESS && kind == CU_MEMORYTYPE_HOST) {
    return error::InvalidArgument("{} is host memory: write it without CUDA", data);
  }
  if (result == CUDA_SUCCESS) {
    result = calls_.pointer_get_attribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
                                          AddressOf(data));
  }
  if (result != CUDA_SUCCESS) {
    return CudaStatus(calls_, result, fmt::format("{} is not memory of a CUDA device", data));
  }
  return At(ordinal);
}

absl::StatusOr<Device*> CudaDriver::At(int ordinal) {
  MutexLock lock(&mutex_);
  std::unique_ptr<CudaDevice>& device = devices_[ordinal];
  if (device == nullptr) {
    CUcontext context = nullptr;
    GEMEL_RETURN_IF_ERROR(CudaStatus(calls_, calls_.device_primary_ctx_retain(&context, ordinal),
                                     fmt::format("opening CUDA device {}", ordinal)));
    device = std::make_unique<CudaDevice>(calls_, ordinal, context);
  }
  return device.get();
}

absl::Status CheckCuda() { return Driver().status(); }

absl::StatusOr<Device*> CudaDeviceOf(const void* data) {
  GEMEL_ASSIGN_OR_RETURN(CudaDriver * driver, Driver());
  return driver->DeviceOf(data);
}

}  // namespace gemel
