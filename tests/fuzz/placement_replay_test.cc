// SPDX-License-Identifier: Apache-2.0
//
// Inputs of the placement fuzzer from one seed, with any compiler, and what it found once.
#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include "tests/fuzz/placement_target.h"

namespace gemel {
namespace {

constexpr int kInputs = 400;

size_t Replay(uint8_t begins, uint64_t seed) {
  const google::protobuf::LogSilencer silence;
  return ReplayChoices<PlacementTarget>(begins, seed, kInputs, 900);
}

TEST(PlacementFuzzReplay, CallsAfterServersJoined) {
  EXPECT_GT(Replay(4, 1), static_cast<size_t>(kInputs) * 5) << "the calls do not fit together";
}

TEST(PlacementFuzzReplay, CallsFromNothing) { Replay(0, 2); }

TEST(PlacementFuzzReplay, Recovery) { Replay(1, 3); }

TEST(PlacementFuzzReplay, ArbitraryStore) { Replay(2, 4); }

pb::OpenRequest OpenOf(const PlacementTarget& target) {
  pb::OpenRequest open;
  target.requests().FillCaller(0, open.mutable_caller());
  open.set_job("gpt");
  open.mutable_epoch()->set_generation(1);
  open.mutable_epoch()->set_counter(1);
  open.set_token(PlacementRequests::kToken);
  open.set_name("s0");
  open.set_world_size(1);
  open.set_layout_hash(std::string(16, 'l'));
  open.set_shard_bytes(100);
  open.set_copies(2);
  return open;
}

TEST(PlacementFuzzFound, SizesThatAddUpToMoreThan64Bits) {
  PlacementTarget sound;
  EXPECT_TRUE(sound.RunOne(4, "Open", OpenOf(sound)).ok());
  PlacementTarget huge;
  pb::OpenRequest open = OpenOf(huge);
  open.set_shard_bytes(UINT64_MAX - 1);
  EXPECT_EQ(huge.RunOne(4, "Open", open).code(), absl::StatusCode::kInvalidArgument);
}

TEST(PlacementFuzzFound, RecoveryOfAClusterOfZeroAndOfAGenerationThatWraps) {
  for (const bool zero : {true, false}) {
    PlacementTarget target;
    pb::JoinRequest join;
    target.requests().FillJoin(0, &join);
    join.mutable_caller()->set_cluster_id(std::string(16, zero ? '\0' : 'c'));
    join.set_generation(zero ? 1 : UINT64_MAX);
    EXPECT_EQ(target.RunOne(1, "Join", join).code(), absl::StatusCode::kInvalidArgument) << zero;
  }
}

// A server's disk in a recovery: a record that no Open admits makes no keys.
TEST(PlacementFuzzFound, RecoveryFromARecordThatNoOpenAdmits) {
  model::CommitRecord record;
  record.cluster = *ClusterId::FromBytes(std::string(16, 'c'));
  record.snapshot = {"a/b", {1, 1}, 1, "s0", 0};
  record.world_size = 1;
  record.copies = record.min_copies = 1;
  for (const auto& [job, sequence] : std::vector<std::pair<std::string, uint64_t>>{
           {"a/b", 1}, {"gpt", 0}, {"gpt", UINT64_MAX}, {"", 1}}) {
    record.snapshot.job = job;
    record.snapshot.sequence = sequence;
    PlacementTarget target;
    pb::JoinRequest join;
    target.requests().FillJoin(0, &join);
    join.mutable_caller()->set_cluster_id(record.cluster.ToBytes());
    join.add_commit_records(model::EncodeCommitRecord(record));
    const absl::Status status = target.RunOne(1, "Join", join);
    EXPECT_NE(status.code(), absl::StatusCode::kInternal) << status;
  }
}

std::map<std::string, std::string> StoreWith(const std::string& key, const std::string& value) {
  ClusterRecord cluster;
  cluster.cluster.bytes[0] = 1;
  cluster.generation = 1;
  JobRecord job;
  job.epoch = {1, 7};
  job.next_sequence = 20;
  std::map<std::string, std::string> content = {{kClusterKey, EncodeStored(cluster)},
                                                {JobKey("gpt"), EncodeStored(job)}};
  content[key] = value;
  return content;
}

TEST(PlacementFuzzFound, ADamagedStoreIsRefusedByTheNameOfTheKey) {
  RestoreRecord restore;
  restore.epoch = {1, 7};
  restore.world_size = 3;  // and none of `verified`
  OpenRecord open;
  open.snapshot = {"gpt", {1, 7}, 13, "s0", 0};
  open.world_size = 1;
  open.copies = 2;  // and min_copies 0
  JobRecord job;
  job.epoch = {2, 1};  // of a generation that the cluster has not
  const std::vector<std::pair<std::string, std::string>> damaged = {
      {RestoreKey("gpt"), EncodeStored(restore)},
      {OpenKey("gpt", 13), EncodeStored(open)},
      {JobKey("gpt"), EncodeStored(job)},
      {"job/a/b", EncodeStored(JobRecord())},
      {MemberKey(*ServerId::FromBytes(std::string(16, 'A'))), EncodeStored(MemberRecord())}};
  PlacementTarget sound;
  EXPECT_TRUE(sound.StartOn(StoreWith(kClusterKey, StoreWith("", "")[kClusterKey])).ok());
  for (const auto& [key, value] : damaged) {
    PlacementTarget target;
    const absl::Status status = target.StartOn(StoreWith(key, value));
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << key << ": " << status;
    EXPECT_NE(ToText(status).find(key), std::string::npos) << status;
  }
}

}  // namespace
}  // namespace gemel
