// SPDX-License-Identifier: Apache-2.0
//
// Inputs of the text fuzzer from one seed, with any compiler, and what it found once.
#include <gtest/gtest.h>

#include "tests/fuzz/text_target.h"

namespace gemel {
namespace {

constexpr int kInputs = 20000;

TEST(TextFuzzReplay, SeedsAreAccepted) {
  for (const std::string& seed : TextTarget::Seeds()) {
    EXPECT_TRUE(TextTarget::Run(AsBytes(seed))) << static_cast<int>(seed[0]);
  }
}

TEST(TextFuzzReplay, NoInputBreaksAnInvariant) {
  const size_t accepted = ReplayChanged(TextTarget::Seeds(), kInputs, 1, TextTarget::Run);
  EXPECT_GT(accepted, static_cast<size_t>(kInputs) / 10) << "the inputs do not get inside";
}

}  // namespace
}  // namespace gemel
