// SPDX-License-Identifier: Apache-2.0
//
// Inputs of the server fuzzer from one seed, with any compiler, and what it found once.
#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include "tests/fuzz/server_target.h"

namespace gemel {
namespace {

constexpr int kInputs = 60;

// Random choices after a first byte: how the run begins.
size_t Replay(uint8_t shape, uint64_t seed) {
  const google::protobuf::LogSilencer silence;
  Random random(seed);
  size_t ok = 0;
  for (int i = 0; i < kInputs; ++i) {
    const size_t bytes = 50 + random.Below(600);
    ServerTarget target;
    ok += target.Run(AsBytes(static_cast<char>(shape) + RandomBytes(&random, bytes)));
  }
  return ok;
}

TEST(ServerFuzzReplay, FramesAfterAHello) {
  EXPECT_GT(Replay(4, 1), static_cast<size_t>(kInputs) * 5) << "the frames do not get inside";
}

TEST(ServerFuzzReplay, FramesBeforeAHello) { Replay(0, 2); }

TEST(ServerFuzzReplay, LargerObjects) { Replay(7, 3); }

// Made tables for all chunks of the object before it asked whether there is memory.
TEST(ServerFuzzFound, OffersOfMoreThanAnyServerHas) {
  EXPECT_EQ(ServerTarget().OfferOf(kMiB), absl::StatusCode::kOk);
  for (const uint64_t bytes : {uint64_t{1} << 62, UINT64_MAX, 100 * kMiB}) {
    EXPECT_EQ(ServerTarget().OfferOf(bytes), absl::StatusCode::kResourceExhausted) << bytes;
  }
}

}  // namespace
}  // namespace gemel
