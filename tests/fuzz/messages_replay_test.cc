// SPDX-License-Identifier: Apache-2.0
//
// Inputs of the messages fuzzer from one seed, with any compiler, and what it found once.
#include <gtest/gtest.h>

#include "tests/fuzz/messages_target.h"

namespace gemel {
namespace {

constexpr int kInputs = 20000;

TEST(MessagesFuzzReplay, SeedsAreAccepted) {
  for (const std::string& seed : MessagesTarget::Seeds()) {
    EXPECT_TRUE(MessagesTarget::Run(AsBytes(seed))) << static_cast<int>(seed[0]);
  }
}

TEST(MessagesFuzzReplay, NoInputBreaksAnInvariant) {
  const size_t accepted = ReplayChanged(MessagesTarget::Seeds(), kInputs, 1, MessagesTarget::Run);
  EXPECT_GT(accepted, static_cast<size_t>(kInputs) / 10) << "the inputs do not get inside";
}

}  // namespace
}  // namespace gemel
