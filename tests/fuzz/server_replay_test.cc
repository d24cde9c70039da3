// SPDX-License-Identifier: Apache-2.0
//
// Inputs of the server fuzzer from one seed, with any compiler, and what it found once.
#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include "tests/fuzz/server_target.h"

namespace gemel {
namespace {

constexpr int kInputs = 60;

size_t Replay(uint8_t begins, uint64_t seed) {
  const google::protobuf::LogSilencer silence;
  return ReplayChoices<ServerTarget>(begins, seed, kInputs, 600);
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
