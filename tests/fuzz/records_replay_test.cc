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

// Was accepted and encoded to other bytes: jobs out of order, and one twice.
TEST(RecordsFuzzFound, JobsOfAnIdentityOutOfOrder) {
  IdentityFile identity;
  identity.epochs = {{"a", {1, 1}}, {"b", {1, 2}}};
  std::string raw = EncodeIdentity(identity);
  raw[raw.find('b', 49)] = 'a';
  EXPECT_EQ(DecodeIdentity(raw).status().code(), absl::StatusCode::kInvalidArgument);
}

// Was accepted and could not be encoded: a job's name that fills more than a record may have.
TEST(RecordsFuzzFound, ACommitRecordWithALongName) {
  model::CommitRecord record;
  record.snapshot = {std::string(model::kJobNameBytesMax + 1, 'j'), {1, 1}, 1, "s", 0};
  record.world_size = record.copies = record.min_copies = 1;
  EXPECT_EQ(model::DecodeCommitRecord(model::EncodeCommitRecord(record)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace gemel
