// SPDX-License-Identifier: Apache-2.0
//
// The bytes of every message between client and server (docs/formats/messages.md), for ever.
#include <gtest/gtest.h>

#include "tests/golden/golden_bytes.h"
#include "transport/local/messages.h"

namespace gemel {
namespace {

std::vector<SlabPiece> GoldenPieces() {
  return {{.slab = 0x04030201,
           .offset = 0x0c0b0a0908070605,
           .bytes = 0x14131211100f0e0d,
           .has_handle = true},
          {.slab = 0x18171615, .offset = 0x201f1e1d1c1b1a19, .bytes = 0x2827262524232221}};
}

const std::string kPiecesHex =
    "02000000"          // count
    "01020304"          // [0].slab
    "05060708090a0b0c"  // [0].offset
    "0d0e0f1011121314"  // [0].bytes
    "01"                // [0].has_handle
    "15161718"          // [1].slab
    "191a1b1c1d1e1f20"  // [1].offset
    "2122232425262728"  // [1].bytes
    "00";               // [1].has_handle

TEST(LocalMessagesGolden, ClientHello) {
  ClientHello m;
  m.version = 0x04030201;
  m.pid = 0x0c0b0a0908070605;
  ExpectMessage(m,
                "01020304"            // version
                "05060708090a0b0c");  // pid
}

TEST(LocalMessagesGolden, ClientHelloReply) {
  ClientHelloReply m;
  m.version = 0x04030201;
  m.cluster = IdOf<ClusterId>(0x05);
  m.server = IdOf<ServerId>(0x06);
  m.incarnation = IdOf<Incarnation>(0x07);
  m.server_name = "server_name";
  m.slab_bytes = 0x0f0e0d0c0b0a0908;
  m.holder = 0x1716151413121110;
  ExpectMessage(m,
                "01020304"                          // version
                "05060708090a0b0c0d0e0f1011121314"  // cluster
                "060708090a0b0c0d0e0f101112131415"  // server
                "0708090a0b0c0d0e0f10111213141516"  // incarnation
                "0b0000007365727665725f6e616d65"    // server_name
                "08090a0b0c0d0e0f"                  // slab_bytes
                "1011121314151617");                // holder
}

TEST(LocalMessagesGolden, ReclaimSlabs) {
  ReclaimSlabs m;
  m.holders = {0x0807060504030201, 0x100f0e0d0c0b0a09};
  ExpectMessage(m,
                "02000000"            // holders
                "0102030405060708"    // [0]
                "090a0b0c0d0e0f10");  // [1]
}

TEST(LocalMessagesGolden, AcquireEpoch) {
  AcquireEpoch m;
  m.job = "job";
  m.token = IdOf<EpochToken>(0x01);
  ExpectMessage(m,
                "030000006a6f62"                      // job
                "0102030405060708090a0b0c0d0e0f10");  // token
}

TEST(LocalMessagesGolden, AcquireEpochDone) {
  AcquireEpochDone m;
  m.epoch = {0x0807060504030201, 0x100f0e0d0c0b0a09};
  ExpectMessage(m,
                "0102030405060708"    // epoch.generation
                "090a0b0c0d0e0f10");  // epoch.counter
}

TEST(LocalMessagesGolden, OpenShard) {
  OpenShard m;
  m.job = "job";
  m.epoch = {0x0807060504030201, 0x100f0e0d0c0b0a09};
  m.token = IdOf<EpochToken>(0x11);
  m.name = "name";
  m.attempt = 0x15141312;
  m.rank = 0x19181716;
  m.world_size = 0x1d1c1b1a;
  m.layout_hash = {0x2524232221201f1e, 0x2d2c2b2a29282726};
  m.shard_bytes = 0x3534333231302f2e;
  m.layout_bytes = 0x3d3c3b3a39383736;
  m.copies = 0x41403f3e;
  m.min_copies = 0x45444342;
  m.keep_latest = 0x49484746;
  m.on_busy = OnBusyPolicy::kSkip;
  m.wait_ms = 0x4d4c4b4a;
  m.deadline_ms = 0x51504f4e;
  m.persist_every = 0x55545352;
  m.persist_interval_s = 0x59585756;
  m.persist_copies = 0x5d5c5b5a;
  m.persist_keep = 0x61605f5e;
  m.stage = IdOf<StageId>(0x62);
  ExpectMessage(m,
                "030000006a6f62"                      // job
                "0102030405060708"                    // epoch.generation
                "090a0b0c0d0e0f10"                    // epoch.counter
                "1112131415161718191a1b1c1d1e1f20"    // token
                "040000006e616d65"                    // name
                "12131415"                            // attempt
                "16171819"                            // rank
                "1a1b1c1d"                            // world_size
                "1e1f202122232425262728292a2b2c2d"    // layout_hash, low then high
                "2e2f303132333435"                    // shard_bytes
                "363738393a3b3c3d"                    // layout_bytes
                "3e3f4041"                            // copies
                "42434445"                            // min_copies
                "46474849"                            // keep_latest
                "01"                                  // on_busy
                "4a4b4c4d"                            // wait_ms
                "4e4f5051"                            // deadline_ms
                "52535455"                            // persist_every
                "56575859"                            // persist_interval_s
                "5a5b5c5d"                            // persist_copies
                "5e5f6061"                            // persist_keep
                "62636465666768696a6b6c6d6e6f7071");  // stage
}

// A strategy other than the default follows; written by who knows none, there is nothing.
TEST(LocalMessagesGolden, OpenShardByRing) {
  OpenShard m;
  const std::string without = EncodeMessage(m);
  m.strategy = StrategyChoice::kRing;
  EXPECT_EQ(BytesToHex(EncodeMessage(m)), BytesToHex(without) + "01");
  EXPECT_EQ(DecodeMessage<OpenShard>(without + '\1')->strategy, StrategyChoice::kRing);
  EXPECT_EQ(DecodeMessage<OpenShard>(without)->strategy, StrategyChoice::kGroup);
  for (const char never : {'\0', '\2'}) {
    EXPECT_FALSE(DecodeMessage<OpenShard>(without + never).ok()) << static_cast<int>(never);
  }
}

TEST(LocalMessagesGolden, OpenShardReply) {
  OpenShardReply m;
  m.decision = OpenDecision::kSkip;
  m.reason = "reason";
  m.snapshot = GoldenSnapshot();
  m.upload = 0x0807060504030201;
  m.pieces = GoldenPieces();
  m.digests.resize(2);
  m.digests[0] = {0x302f2e2d2c2b2a29, 0x3837363534333231};
  m.digests[1] = {0x403f3e3d3c3b3a39, 0x4847464544434241};
  ExpectMessage(m,
                "02"                                      // decision
                "06000000726561736f6e" +                  // reason
                    kSnapshotHex +                        // snapshot
                    "0102030405060708" +                  // upload
                    kPiecesHex +                          // pieces
                    "02000000"                            // digests, count
                    "292a2b2c2d2e2f303132333435363738"    // digests[0], low then high
                    "393a3b3c3d3e3f404142434445464748");  // digests[1], low then high
}

TEST(LocalMessagesGolden, StageShard) {
  StageShard m;
  m.stage = IdOf<StageId>(0x01);
  m.shard_bytes = 0x1817161514131211;
  m.layout_bytes = 0x201f1e1d1c1b1a19;
  ExpectMessage(m,
                "0102030405060708090a0b0c0d0e0f10"  // stage
                "1112131415161718"                  // shard_bytes
                "191a1b1c1d1e1f20");                // layout_bytes
}

TEST(LocalMessagesGolden, StageShardReply) {
  StageShardReply m;
  m.wait = true;
  m.reason = "reason";
  m.upload = 0x0807060504030201;
  m.pieces = GoldenPieces();
  ExpectMessage(m,
                "01"                    // wait
                "06000000726561736f6e"  // reason
                "0102030405060708" +    // upload
                    kPiecesHex);        // pieces
}

TEST(LocalMessagesGolden, SealStage) {
  SealStage m;
  m.upload = 0x0807060504030201;
  ExpectMessage(m, "0102030405060708");  // upload
}

TEST(LocalMessagesGolden, DropStage) {
  DropStage m;
  m.stage = IdOf<StageId>(0x01);
  ExpectMessage(m, "0102030405060708090a0b0c0d0e0f10");  // stage
}

TEST(LocalMessagesGolden, PrepareSlabs) {
  PrepareSlabs m;
  m.bytes = 0x0807060504030201;
  ExpectMessage(m,
                "0102030405060708");  // bytes
}

TEST(LocalMessagesGolden, PrepareSlabsReply) {
  PrepareSlabsReply m;
  m.pieces = GoldenPieces();
  ExpectMessage(m,
                kPiecesHex);  // pieces
}

TEST(LocalMessagesGolden, ChunksFilled) {
  ChunksFilled m;
  m.upload = 0x0807060504030201;
  m.first_chunk = 0x0c0b0a09;
  m.digests.resize(2);
  m.digests[0] = {0x14131211100f0e0d, 0x1c1b1a1918171615};
  m.digests[1] = {0x24232221201f1e1d, 0x2c2b2a2928272625};
  ExpectMessage(m,
                "0102030405060708"                    // upload
                "090a0b0c"                            // first_chunk
                "02000000"                            // digests, count
                "0d0e0f101112131415161718191a1b1c"    // digests[0], low then high
                "1d1e1f202122232425262728292a2b2c");  // digests[1], low then high
}

TEST(LocalMessagesGolden, SealShard) {
  SealShard m;
  m.upload = 0x0807060504030201;
  m.root = {0x100f0e0d0c0b0a09, 0x1817161514131211};
  ExpectMessage(m,
                "0102030405060708"                    // upload
                "090a0b0c0d0e0f101112131415161718");  // root, low then high
}

TEST(LocalMessagesGolden, AwaitCommit) {
  AwaitCommit m;
  m.snapshot = GoldenSnapshot();
  m.rank = 0x04030201;
  m.wait_ms = 0x08070605;
  ExpectMessage(m,
                kSnapshotHex +    // snapshot
                    "01020304"    // rank
                    "05060708");  // wait_ms
}

TEST(LocalMessagesGolden, AwaitCommitDone) {
  AwaitCommitDone m;
  m.state = CommitState::kAborted;
  m.redundancy_full = true;
  m.copies = 0x04030201;
  m.root = {0x0c0b0a0908070605, 0x14131211100f0e0d};
  m.why = "why";
  m.code = 0x18171615;
  ExpectMessage(m,
                "02"                                // state
                "01"                                // redundancy_full
                "01020304"                          // copies
                "05060708090a0b0c0d0e0f1011121314"  // root, low then high
                "03000000776879"                    // why
                "15161718");                        // code
}

TEST(LocalMessagesGolden, AbortShard) {
  AbortShard m;
  m.upload = 0x0807060504030201;
  m.why = "why";
  ExpectMessage(m,
                "0102030405060708"  // upload
                "03000000776879");  // why
}

TEST(LocalMessagesGolden, BeginRestore) {
  BeginRestore m;
  m.job = "job";
  m.epoch = {0x0807060504030201, 0x100f0e0d0c0b0a09};
  m.token = IdOf<EpochToken>(0x11);
  m.rank = 0x15141312;
  m.world_size = 0x19181716;
  m.wait_ms = 0x1d1c1b1a;
  ExpectMessage(m,
                "030000006a6f62"                    // job
                "0102030405060708"                  // epoch.generation
                "090a0b0c0d0e0f10"                  // epoch.counter
                "1112131415161718191a1b1c1d1e1f20"  // token
                "12131415"                          // rank
                "16171819"                          // world_size
                "1a1b1c1d");                        // wait_ms
}

TEST(LocalMessagesGolden, BeginRestoreDone) {
  BeginRestoreDone m;
  m.decision = RestoreDecision::kNeverCommitted;
  m.restore = 0x0807060504030201;
  m.round = 0x0c0b0a09;
  m.snapshot = GoldenSnapshot();
  m.shards.resize(2);
  m.shards[0].root = {0x14131211100f0e0d, 0x1c1b1a1918171615};
  m.shards[0].bytes = 0x24232221201f1e1d;
  m.shards[0].layout_bytes = 0x2c2b2a2928272625;
  m.shards[1].root = {0x34333231302f2e2d, 0x3c3b3a3938373635};
  m.shards[1].bytes = 0x44434241403f3e3d;
  m.shards[1].layout_bytes = 0x4c4b4a4948474645;
  m.progress = "progress";
  m.lost.resize(2);
  m.lost[0] = "lost";
  m.lost[1] = "lost";
  ExpectMessage(m,
                "02"                                    // decision
                "0102030405060708"                      // restore
                "090a0b0c" +                            // round
                    kSnapshotHex +                      // snapshot
                    "02000000"                          // shards, count
                    "0d0e0f101112131415161718191a1b1c"  // shards[0].root, low then high
                    "1d1e1f2021222324"                  // shards[0].bytes
                    "25262728292a2b2c"                  // shards[0].layout_bytes
                    "2d2e2f303132333435363738393a3b3c"  // shards[1].root, low then high
                    "3d3e3f4041424344"                  // shards[1].bytes
                    "45464748494a4b4c"                  // shards[1].layout_bytes
                    "0800000070726f6772657373"          // progress
                    "02000000"                          // lost, count
                    "040000006c6f7374"                  // lost[0]
                    "040000006c6f7374");                // lost[1]
}

TEST(LocalMessagesGolden, BeginRead) {
  BeginRead m;
  m.job = "job";
  m.name = "name";
  m.wait_ms = 0x04030201;
  ExpectMessage(m,
                "030000006a6f62"    // job
                "040000006e616d65"  // name
                "01020304");        // wait_ms
}

TEST(LocalMessagesGolden, ListSnapshots) {
  ListSnapshots m;
  m.job = "job";
  ExpectMessage(m, "030000006a6f62");  // job
}

TEST(LocalMessagesGolden, ListSnapshotsReply) {
  ListSnapshotsReply m;
  m.snapshots.resize(2);
  m.snapshots[0].snapshot = GoldenSnapshot();
  m.snapshots[0].world_size = 0x04030201;
  m.snapshots[0].bytes = 0x0c0b0a0908070605;
  m.snapshots[0].committed_unix_s = 0x14131211100f0e0d;
  m.snapshots[0].persisted = true;
  m.snapshots[0].in_memory = true;
  m.snapshots[1].snapshot = GoldenSnapshot();
  m.snapshots[1].world_size = 0x18171615;
  m.snapshots[1].bytes = 0x201f1e1d1c1b1a19;
  m.snapshots[1].committed_unix_s = 0x2827262524232221;
  m.snapshots[1].persisted = true;
  m.snapshots[1].in_memory = true;
  ExpectMessage(m,
                "02000000" +            // snapshots, count
                    kSnapshotHex +      // snapshots[0].snapshot
                    "01020304"          // snapshots[0].world_size
                    "05060708090a0b0c"  // snapshots[0].bytes
                    "0d0e0f1011121314"  // snapshots[0].committed_unix_s
                    "01"                // snapshots[0].persisted
                    "01" +              // snapshots[0].in_memory
                    kSnapshotHex +      // snapshots[1].snapshot
                    "15161718"          // snapshots[1].world_size
                    "191a1b1c1d1e1f20"  // snapshots[1].bytes
                    "2122232425262728"  // snapshots[1].committed_unix_s
                    "01"                // snapshots[1].persisted
                    "01");              // snapshots[1].in_memory
}

TEST(LocalMessagesGolden, RemoveSnapshot) {
  RemoveSnapshot m;
  m.job = "job";
  m.name = "name";
  ExpectMessage(m,
                "030000006a6f62"      // job
                "040000006e616d65");  // name
}

TEST(LocalMessagesGolden, FetchChunks) {
  FetchChunks m;
  m.restore = 0x0807060504030201;
  m.shard = 0x0c0b0a09;
  m.first_chunk = 0x100f0e0d;
  m.count = 0x14131211;
  ExpectMessage(m,
                "0102030405060708"  // restore
                "090a0b0c"          // shard
                "0d0e0f10"          // first_chunk
                "11121314");        // count
}

TEST(LocalMessagesGolden, FetchChunksReply) {
  FetchChunksReply m;
  m.pieces = GoldenPieces();
  m.digests.resize(2);
  m.digests[0] = {0x302f2e2d2c2b2a29, 0x3837363534333231};
  m.digests[1] = {0x403f3e3d3c3b3a39, 0x4847464544434241};
  m.local_bytes = 0x504f4e4d4c4b4a49;
  m.peer_bytes = 0x5857565554535251;
  ExpectMessage(m,
                kPiecesHex +                            // pieces
                    "02000000"                          // digests, count
                    "292a2b2c2d2e2f303132333435363738"  // digests[0], low then high
                    "393a3b3c3d3e3f404142434445464748"  // digests[1], low then high
                    "494a4b4c4d4e4f50"                  // local_bytes
                    "5152535455565758");                // peer_bytes
}

TEST(LocalMessagesGolden, ReportRestore) {
  ReportRestore m;
  m.restore = 0x0807060504030201;
  m.verified = true;
  m.unreadable_shards.resize(2);
  m.unreadable_shards[0] = 0x0c0b0a09;
  m.unreadable_shards[1] = 0x100f0e0d;
  m.why = "why";
  ExpectMessage(m,
                "0102030405060708"  // restore
                "01"                // verified
                "02000000"          // unreadable_shards, count
                "090a0b0c"          // unreadable_shards[0]
                "0d0e0f10"          // unreadable_shards[1]
                "03000000776879");  // why
}

TEST(LocalMessagesGolden, AwaitRestore) {
  AwaitRestore m;
  m.restore = 0x0807060504030201;
  m.wait_ms = 0x0c0b0a09;
  ExpectMessage(m,
                "0102030405060708"  // restore
                "090a0b0c");        // wait_ms
}

TEST(LocalMessagesGolden, AwaitRestoreDone) {
  AwaitRestoreDone m;
  m.outcome = RestoreOutcome::kMoved;
  m.lost.resize(2);
  m.lost[0] = "lost";
  m.lost[1] = "lost";
  m.progress = "progress";
  ExpectMessage(m,
                "02"                          // outcome
                "02000000"                    // lost, count
                "040000006c6f7374"            // lost[0]
                "040000006c6f7374"            // lost[1]
                "0800000070726f6772657373");  // progress
}

TEST(LocalMessagesGolden, ReleaseRestore) {
  ReleaseRestore m;
  m.restore = 0x0807060504030201;
  ExpectMessage(m,
                "0102030405060708");  // restore
}

TEST(LocalMessagesGolden, Acknowledged) {
  Acknowledged m;
  ExpectMessage(m, "");
}

}  // namespace
}  // namespace gemel
