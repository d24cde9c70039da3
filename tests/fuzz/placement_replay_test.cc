// SPDX-License-Identifier: Apache-2.0
//
// Inputs of the placement fuzzer from one seed, with any compiler, and what it found once.
#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include "tests/fuzz/placement_target.h"

namespace gemel {
namespace {

constexpr int kInputs = 400;

// Random choices after a first byte: how the run begins.
size_t Replay(uint8_t shape, uint64_t seed) {
  const google::protobuf::LogSilencer silence;
  Random random(seed);
  size_t ok = 0;
  for (int i = 0; i < kInputs; ++i) {
    const size_t bytes = 100 + random.Below(900);
    PlacementTarget target;
    ok += target.Run(AsBytes(static_cast<char>(shape) + RandomBytes(&random, bytes)));
  }
  return ok;
}

TEST(PlacementFuzzReplay, CallsAfterServersJoined) {
  EXPECT_GT(Replay(4, 1), static_cast<size_t>(kInputs) * 5) << "the calls do not fit together";
}

TEST(PlacementFuzzReplay, CallsFromNothing) { Replay(0, 2); }

TEST(PlacementFuzzReplay, Recovery) { Replay(1, 3); }

TEST(PlacementFuzzReplay, ArbitraryStore) { Replay(2, 4); }

}  // namespace
}  // namespace gemel
