// SPDX-License-Identifier: Apache-2.0
//
// Two queue pairs that are connected, on the fake or on a device, each with memory that it
// registered.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "common/errors.h"
#include "tests/lab/fake_verbs.h"
#include "transport/verbs/verbs_calls.h"
#include "transport/verbs/verbs_outcome.h"
#include "transport/verbs/verbs_queue_pair.h"

namespace gemel {

// "fake", and "device" where there is one.
inline std::vector<std::string> Fabrics() {
  const absl::StatusOr<const VerbsCalls*> loaded = LoadVerbs();
  const bool has_device = loaded.ok() && VerbsDevice::Open(*loaded, "").ok();
  return has_device ? std::vector<std::string>{"fake", "device"} : std::vector<std::string>{"fake"};
}

constexpr size_t kEndBytes = size_t{64} << 10;

// One end.
struct VerbsEnd {
  std::vector<std::byte> memory = std::vector<std::byte>(kEndBytes);
  std::unique_ptr<VerbsRegion> region;
  std::unique_ptr<VerbsQueuePair> pair;
  std::unique_ptr<VerbsWindow> window;  // goes first
  std::deque<WorkDone> told;

  MutableByteSpan First(size_t bytes) { return MutableByteSpan(memory).first(bytes); }

  bool IsEmpty() const {
    return std::all_of(memory.begin(), memory.end(), [](std::byte b) { return b == std::byte(0); });
  }

  VerbsPlace Place(size_t offset = 0) const {
    return {.address = reinterpret_cast<uintptr_t>(memory.data()) + offset, .key = window->key()};
  }

  // Waits; some tens of seconds at most in the guest.
  WorkDone Next() {
    constexpr uint32_t kPollsMax = 20'000'000;
    std::vector<WorkDone> done;
    for (uint32_t i = 0; told.empty() && i < kPollsMax; ++i) {
      pair->Poll(&done);
      told.insert(told.end(), done.begin(), done.end());
      done.clear();
    }
    if (told.empty()) {
      ADD_FAILURE() << "nothing is told";
      return {};
    }
    const WorkDone first = told.front();
    told.pop_front();
    return first;
  }
};

// `fabric`: "fake" or "device".
class VerbsEnds {
 public:
  explicit VerbsEnds(const std::string& fabric, uint64_t seed = 1)
      : fake_(fabric == "fake" ? std::make_unique<FakeVerbs>(seed) : nullptr) {
    const VerbsCalls* calls = fake_ ? &fake_->calls() : *LoadVerbs();
    absl::StatusOr<std::unique_ptr<VerbsDevice>> opened = VerbsDevice::Open(calls, "");
    EXPECT_TRUE(opened.ok()) << opened.status();
    device_ = *std::move(opened);
  }

  // Short of patience, so that what does not answer is told soon.
  static VerbsQueuePair::Options Impatient() { return {.retries = 2, .receiver_retries = 0}; }

  void Make(VerbsEnd* end, const VerbsQueuePair::Options& options) {
    end->region = *device_->Register(end->memory);
    end->window = *device_->MakeWindow();
    absl::StatusOr<std::unique_ptr<VerbsQueuePair>> pair =
        VerbsQueuePair::Make(device_.get(), options);
    ASSERT_TRUE(pair.ok()) << pair.status();
    end->pair = *std::move(pair);
  }

  static void Connect(VerbsEnd* a, VerbsEnd* b) {
    ASSERT_TRUE(a->pair->Connect(b->pair->address()).ok());
    ASSERT_TRUE(b->pair->Connect(a->pair->address()).ok());
  }

  VerbsDevice* device() { return device_.get(); }

  FakeVerbs* fake() { return fake_.get(); }

 private:
  std::unique_ptr<FakeVerbs> fake_;  // null: a device
  std::unique_ptr<VerbsDevice> device_;
};

}  // namespace gemel
