// SPDX-License-Identifier: Apache-2.0
//
// Identity: what a server knows across its lives.
#include <gtest/gtest.h>

#include "server/identity.h"
#include "tests/unit/server_world.h"

namespace gemel::testing {
namespace {

struct Place {
  Place() : world(5), life(&world, "host") { GEMEL_CHECK(Load().ok()); }

  absl::Status Load() {
    identity = nullptr;
    disk = nullptr;
    disk = std::make_unique<SimDisk>(&life.loop, &state, Random(1));
    auto loaded = life.Run(Identity::Load(disk.get(), Random(9)));
    if (!loaded.ok()) {
      return loaded.status();
    }
    identity = *std::move(loaded);
    return absl::OkStatus();
  }

  absl::Status Run(Task<absl::Status> task) { return life.Run(std::move(task)); }

  World world;
  Life life;
  SimDiskState state;
  std::unique_ptr<SimDisk> disk;
  std::unique_ptr<Identity> identity;
};

ClusterId Cluster(uint8_t first) {
  ClusterId cluster;
  cluster.bytes[0] = first;
  return cluster;
}

struct Commit {
  explicit Commit(uint64_t sequence, const std::string& job = "gpt") {
    model::Manifest parsed;
    parsed.snapshot = {job, {1, 2}, sequence, "7", 0};
    parsed.shards.push_back({Digest128{1, 2}, 100, 10});
    manifest = model::EncodeManifest(parsed);
    model::CommitRecord decoded;
    decoded.cluster = Cluster(1);
    decoded.snapshot = parsed.snapshot;
    decoded.manifest_root = model::ManifestRoot(manifest);
    decoded.world_size = 1;
    decoded.copies = 2;
    decoded.min_copies = 2;
    record = model::EncodeCommitRecord(decoded);
    snapshot = parsed.snapshot;
  }

  SnapshotId snapshot;
  std::string record;
  std::string manifest;
};

TEST(Identity, KeepsItsServerIdForEver) {
  Place p;
  const ServerId id = p.identity->server();
  EXPECT_FALSE(id.IsZero());
  ASSERT_TRUE(p.Load().ok());
  EXPECT_EQ(p.identity->server(), id);
}

TEST(Identity, RefusesASecondClusterAndAnOlderGeneration) {
  Place p;
  ASSERT_TRUE(p.Run(p.identity->Joined({Cluster(1), 3, 1}, {})).ok());
  ASSERT_TRUE(p.Load().ok());
  const absl::Status foreign = p.identity->CheckPlacement(Cluster(2), 9);
  EXPECT_EQ(foreign.code(), absl::StatusCode::kFailedPrecondition);
  const std::string_view text = MessageOf(foreign);
  EXPECT_NE(text.find(Cluster(1).ToHex()), std::string_view::npos);
  EXPECT_NE(text.find(Cluster(2).ToHex()), std::string_view::npos);
  EXPECT_NE(text.find("gemel placement recover --from-servers"), std::string_view::npos);
  EXPECT_EQ(p.identity->CheckPlacement(Cluster(1), 2).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(p.identity->CheckPlacement(Cluster(1), 3).ok());
}

TEST(Identity, ObeysNoLeaderBelowOneThatItObeyedAndABiggerGenerationBeginsTermsAnew) {
  Place p;
  ASSERT_TRUE(p.Run(p.identity->Joined({Cluster(1), 3, 7}, {})).ok());
  ASSERT_TRUE(p.Load().ok());
  EXPECT_EQ(p.identity->term(), 7U);
  EXPECT_EQ(p.identity->CheckLeader(3, 6).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(p.identity->CheckLeader(3, 7).ok());
  EXPECT_TRUE(p.identity->CheckLeader(4, 1).ok());
  EXPECT_EQ(p.identity->CheckLeader(2, 9).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(p.Run(p.identity->Joined({Cluster(1), 3, 6}, {})).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(p.identity->term(), 7U);
}

TEST(Identity, NeverTakesAnEpochBack) {
  Place p;
  ASSERT_TRUE(p.Run(p.identity->SeeEpoch("gpt", {1, 7})).ok());
  ASSERT_TRUE(p.Run(p.identity->SeeEpoch("gpt", {1, 3})).ok());
  ASSERT_TRUE(p.Load().ok());
  EXPECT_EQ(p.identity->CheckEpoch("gpt", {1, 6}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(p.identity->CheckEpoch("gpt", {1, 7}).ok());
  EXPECT_TRUE(p.identity->CheckEpoch("gpt", {2, 1}).ok());
  EXPECT_TRUE(p.identity->CheckEpoch("other", {0, 1}).ok());
}

TEST(Identity, HoldsAnEpochInMemoryEvenWhenTheDiskFails) {
  Place p;
  p.state.FailNextSync();
  EXPECT_EQ(p.Run(p.identity->SeeEpoch("gpt", {1, 7})).code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(p.identity->CheckEpoch("gpt", {1, 6}).ok());
}

TEST(Identity, IsSavedOnAFullDiskToo) {
  Place p;
  ASSERT_TRUE(p.Run(p.identity->Joined({Cluster(1), 3, 1}, {p.identity->server()})).ok());
  p.state.set_full(true);
  EXPECT_TRUE(p.Run(p.identity->SeeEpoch("gpt", {3, 7})).ok());
  EXPECT_TRUE(p.Run(p.identity->Joined({Cluster(1), 3, 2}, {})).ok());
  ASSERT_TRUE(p.Load().ok());
  EXPECT_EQ(p.identity->term(), 2U);
  EXPECT_FALSE(p.identity->CheckEpoch("gpt", {3, 6}).ok());
}

TEST(Identity, WhatCouldNotBeSavedIsSavedWhenItIsAskedAgain) {
  Place p;
  for (int i = 0; i < 2; ++i) {
    p.state.FailNextSync();
    EXPECT_EQ(p.Run(p.identity->SeeEpoch("gpt", {1, 7})).code(), absl::StatusCode::kUnavailable);
    p.state.FailNextSync();
    EXPECT_EQ(p.Run(p.identity->Joined({Cluster(1), 3, 1}, {})).code(),
              absl::StatusCode::kUnavailable);
    p.state.FailNextSync();
    EXPECT_EQ(p.Run(p.identity->SetMembers({p.identity->server()})).code(),
              absl::StatusCode::kUnavailable);
  }
  ASSERT_TRUE(p.Run(p.identity->SeeEpoch("gpt", {1, 7})).ok());
  ASSERT_TRUE(p.Load().ok());
  EXPECT_EQ(p.identity->generation(), 3U);
  EXPECT_EQ(p.identity->last_members().size(), 1U);
  EXPECT_FALSE(p.identity->CheckEpoch("gpt", {1, 6}).ok());
}

TEST(Identity, KeepsRecordAndManifestUntilTheyAreDropped) {
  Place p;
  ASSERT_TRUE(p.Run(p.identity->Joined({Cluster(1), 1, 1}, {})).ok());
  const Commit commit(4);
  ASSERT_TRUE(p.Run(p.identity->StoreCommit(commit.record, commit.manifest)).ok());
  ASSERT_TRUE(p.Run(p.identity->StoreCommit(commit.record, commit.manifest)).ok());
  ASSERT_TRUE(p.Load().ok());
  EXPECT_EQ(p.identity->records(), std::vector<std::string>{commit.record});
  EXPECT_TRUE(p.identity->HasRecord(commit.snapshot));
  EXPECT_EQ(
      *p.life.Run(p.identity->ReadManifest(commit.snapshot, model::ManifestRoot(commit.manifest))),
      commit.manifest);
  ASSERT_TRUE(p.Run(p.identity->DropCommit(commit.snapshot)).ok());
  ASSERT_TRUE(p.Load().ok());
  EXPECT_TRUE(p.identity->records().empty());
}

TEST(Identity, RefusesAManifestThatIsNotTheRecordsAndARecordOfAnotherCluster) {
  Place p;
  ASSERT_TRUE(p.Run(p.identity->Joined({Cluster(1), 1, 1}, {})).ok());
  const Commit commit(4);
  const Commit other(5);
  EXPECT_EQ(p.Run(p.identity->StoreCommit(commit.record, other.manifest)).code(),
            absl::StatusCode::kDataLoss);
  Place foreign;
  ASSERT_TRUE(foreign.Run(foreign.identity->Joined({Cluster(2), 1, 1}, {})).ok());
  EXPECT_EQ(foreign.Run(foreign.identity->StoreCommit(commit.record, commit.manifest)).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(Identity, DoesNotBelieveARecordInAnothersFile) {
  Place p;
  const Commit first(3);
  const Commit second(4);
  ASSERT_TRUE(p.Run(p.identity->Joined({Cluster(1), 3, 1}, {})).ok());
  ASSERT_TRUE(p.Run(p.identity->StoreCommit(first.record, first.manifest)).ok());
  ASSERT_TRUE(p.Run(p.identity->StoreCommit(second.record, second.manifest)).ok());
  std::vector<std::string> files = *p.life.Run(p.disk->List("records"));
  ASSERT_EQ(files.size(), 2U);
  ASSERT_TRUE(p.Run(p.disk->WriteAtomically(files[0], second.record)).ok());
  const absl::Status loaded = p.Load();
  EXPECT_EQ(loaded.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(ToText(loaded).find(files[0]), std::string::npos) << loaded;
}

TEST(Identity, TakesAJobWhoseNameBeginsWithADot) {
  Place p;
  ASSERT_TRUE(p.Run(p.identity->Joined({Cluster(1), 1, 1}, {})).ok());
  const Commit commit(4, ".hidden");
  EXPECT_TRUE(p.Run(p.identity->StoreCommit(commit.record, commit.manifest)).ok());
}

TEST(Identity, DoesNotStartOnARottenFile) {
  Place p;
  ASSERT_TRUE(p.state.Rot("identity"));
  EXPECT_EQ(p.Load().code(), absl::StatusCode::kDataLoss);
}

TEST(Identity, DecodesOnlyWhatItEncodes) {
  IdentityFile file;
  file.server.bytes[2] = 4;
  file.epochs["gpt"] = {1, 9};
  file.last_members.resize(3);
  const std::string raw = EncodeIdentity(file);
  EXPECT_EQ(*DecodeIdentity(raw), file);
  for (size_t bytes = 0; bytes < raw.size(); ++bytes) {
    EXPECT_FALSE(DecodeIdentity(raw.substr(0, bytes)).ok()) << bytes;
  }
  std::string newer = raw;
  newer[4] = static_cast<char>(kIdentityVersion + 1);
  EXPECT_EQ(DecodeIdentity(newer).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace gemel::testing
