// SPDX-License-Identifier: Apache-2.0
//
// What staging asks of an accelerator whose memory a shard is copied from. CUDA's: client/cuda.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"

#include "common/bytes.h"

namespace gemel {

// Copies from a device's memory, in order, each made by the device while the caller does something
// else.
//
// Thread safety: one thread at a time.
// Invariants: nothing is under way when it is destroyed: Drain() before that, on every path.
class DeviceStream {
 public:
  // Copies under way at a time: enough that the device never waits for the hash of one.
  static constexpr size_t kUnderWayMax = 16;

  virtual ~DeviceStream() = default;
  // Starts one. `into` is written by the device until AwaitOldest() said so, or Drain() returned.
  // REQUIRES: fewer than kUnderWayMax are under way.
  virtual absl::Status Start(MutableByteSpan into, const std::byte* from) = 0;
  // Until the oldest that is under way has ended; how it went. REQUIRES: there is one.
  virtual absl::Status AwaitOldest() = 0;
  // Until all have ended, however they went.
  virtual void Drain() = 0;
};

// One accelerator. Thread safety: any thread. Lives for ever.
class Device {
 public:
  virtual ~Device() = default;
  // Makes host memory known to the device's driver: copies to it go at the speed of the bus and
  // beside the caller. Until what it gives is destroyed, which must be before the memory is
  // unmapped. Whatever refuses it, the memory can be copied to, slowly.
  virtual absl::StatusOr<std::shared_ptr<void>> Pin(MutableByteSpan memory) = 0;
  // A stream whose copies come after all that `stream` of this device was given so far.
  virtual absl::StatusOr<std::unique_ptr<DeviceStream>> StreamAfter(void* stream) = 0;
};

}  // namespace gemel
