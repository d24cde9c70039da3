// SPDX-License-Identifier: Apache-2.0
//
// Inputs of the records fuzzer from one seed, with any compiler, and what it found once.
#include <gtest/gtest.h>

#include "tests/fuzz/records_target.h"

namespace gemel {
namespace {

constexpr int kInputs = 20000;

TEST(RecordsFuzzReplay, SeedsAreAccepted) {
  for (const std::string& seed : RecordsTarget::Seeds()) {
    EXPECT_TRUE(RecordsTarget::Run(AsBytes(seed))) << static_cast<int>(seed[0]);
  }
}

TEST(RecordsFuzzReplay, NoInputBreaksAnInvariant) {
  const size_t accepted = ReplayChanged(RecordsTarget::Seeds(), kInputs, 1, RecordsTarget::Run);
  EXPECT_GT(accepted, static_cast<size_t>(kInputs) / 10) << "the inputs do not get inside";
}

}  // namespace
}  // namespace gemel
