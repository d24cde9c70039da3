// SPDX-License-Identifier: Apache-2.0
//
// Inputs of the archive fuzzer from one seed, with any compiler, and what it found once.
#include <gtest/gtest.h>

#include "tests/fuzz/archive_target.h"

namespace gemel {
namespace {

constexpr int kInputs = 40000;

TEST(ArchiveFuzzReplay, SeedsAreAccepted) {
  for (const std::string& seed : ArchiveTarget::Seeds()) {
    EXPECT_TRUE(ArchiveTarget::Run(AsBytes(seed))) << static_cast<int>(seed[0]);
  }
}

TEST(ArchiveFuzzReplay, NoInputBreaksAnInvariant) {
  const size_t accepted = ReplayChanged(ArchiveTarget::Seeds(), kInputs, 1, ArchiveTarget::Run);
  EXPECT_GT(accepted, static_cast<size_t>(kInputs) / 20) << "the inputs do not get inside";
}

}  // namespace
}  // namespace gemel
