// SPDX-License-Identifier: Apache-2.0
//
// Keys and values of the MetaStore (docs/formats/records.md), for ever.
#include <gtest/gtest.h>

#include "placement/manager/stored.h"
#include "tests/golden/golden_bytes.h"

namespace gemel {
namespace {

// `record` is stored as these bytes, and these bytes are read as it.
template <typename Record>
void ExpectStored(const Record& record, const std::string& hex) {
  const std::string raw = EncodeStored(record);
  EXPECT_EQ(BytesToHex(raw), hex);
  const absl::StatusOr<Record> back = DecodeStored<Record>("key", raw);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(EncodeStored(*back), raw);
}

TEST(StoredGolden, Keys) {
  EXPECT_STREQ(kLeaderKey, "leader");
  EXPECT_STREQ(kBeatKey, "leader-beat");
  EXPECT_STREQ(kClusterKey, "cluster");
  EXPECT_EQ(MemberKey(IdOf<ServerId>(0x10)), "member/101112131415161718191a1b1c1d1e1f");
  EXPECT_EQ(JobKey("gpt"), "job/gpt");
  EXPECT_EQ(TokenKey("gpt", IdOf<EpochToken>(0x20)), "token/gpt/202122232425262728292a2b2c2d2e2f");
  EXPECT_EQ(OpenKey("gpt", 0xc), "open/gpt/000000000000000c");
  EXPECT_EQ(StoredSnapshotKey("gpt", {1, 7}, 0xc),
            "snapshot/gpt/0000000000000001.0000000000000007/000000000000000c");
  EXPECT_EQ(PersistedKey("gpt", {1, 7}, 0xc),
            "persisted/gpt/0000000000000001.0000000000000007/000000000000000c");
  EXPECT_EQ(RestoreKey("gpt"), "restore/gpt");
  EXPECT_EQ(DrainKey(IdOf<ServerId>(0x10)), "drain/101112131415161718191a1b1c1d1e1f");
}

TEST(StoredGolden, LeaderRecord) {
  LeaderRecord m;
  m.term = 0x0908070605040302;
  m.manager = IdOf<Incarnation>(0x0a);
  m.name = "name";
  m.address = "address";
  m.resigned = true;
  ExpectStored(m,
               "03"                                // format version
               "0203040506070809"                  // term
               "0a0b0c0d0e0f10111213141516171819"  // manager
               "040000006e616d65"                  // name
               "0700000061646472657373"            // address
               "01");                              // resigned
}

TEST(StoredGolden, BeatRecord) {
  BeatRecord m;
  m.manager = IdOf<Incarnation>(0x0a);
  m.beats = 0x0908070605040302;
  ExpectStored(m,
               "03"                                // format version
               "0a0b0c0d0e0f10111213141516171819"  // manager
               "0203040506070809");                // beats
}

TEST(StoredGolden, ClusterRecord) {
  ClusterRecord m;
  m.cluster = IdOf<ClusterId>(0x01);
  m.generation = 0x0908070605040302;
  m.map_version = 0x1918171615141312;
  m.writes = 0x21201f1e1d1c1b1a;
  ExpectStored(m,
               "03"                                // format version
               "0102030405060708090a0b0c0d0e0f10"  // cluster
               "0203040506070809"                  // generation
               "1213141516171819"                  // map_version
               "1a1b1c1d1e1f2021");                // writes
  m.recovery_majority = 0x25242322;
  ExpectStored(m,
               "03"                                // format version
               "0102030405060708090a0b0c0d0e0f10"  // cluster
               "0203040506070809"                  // generation
               "1213141516171819"                  // map_version
               "1a1b1c1d1e1f2021"                  // writes
               "22232425");                        // recovery_majority
}

TEST(StoredGolden, MemberRecord) {
  MemberRecord m;
  m.id = IdOf<ServerId>(0x01);
  m.incarnation = IdOf<Incarnation>(0x02);
  m.name = "name";
  m.domain = "domain";
  m.data_address = "data_address";
  m.capacity_bytes = 0x0a09080706050403;
  m.dead = true;
  m.superseded.resize(2);
  m.superseded[0] = IdOf<Incarnation>(0x0b);
  m.superseded[1] = IdOf<Incarnation>(0x0c);
  const std::string bytes =
      "03"                                 // format version
      "0102030405060708090a0b0c0d0e0f10"   // id
      "02030405060708090a0b0c0d0e0f1011"   // incarnation
      "040000006e616d65"                   // name
      "06000000646f6d61696e"               // domain
      "0c000000646174615f61646472657373"   // data_address
      "030405060708090a"                   // capacity_bytes
      "01"                                 // dead
      "02000000"                           // superseded, count
      "0b0c0d0e0f101112131415161718191a"   // superseded[0]
      "0c0d0e0f101112131415161718191a1b";  // superseded[1]
  ExpectStored(m, bytes);
  m.recovered_generation = 0x24232221201f1e1d;
  ExpectStored(m, bytes + "1d1e1f2021222324");
}

TEST(StoredGolden, JobRecord) {
  JobRecord m;
  m.epoch = {0x0807060504030201, 0x100f0e0d0c0b0a09};
  m.token = IdOf<EpochToken>(0x11);
  m.next_sequence = 0x1918171615141312;
  m.latest_epoch = {0x21201f1e1d1c1b1a, 0x2928272625242322};
  m.latest_sequence = 0x31302f2e2d2c2b2a;
  m.epoch_opened = true;
  m.removed = true;
  m.persisted_epoch = {0x3938373635343332, 0x41403f3e3d3c3b3a};
  m.persisted_sequence = 0x4948474645444342;
  m.persist_copies = 0x4d4c4b4a;
  m.persist_keep = 0x51504f4e;
  m.writes = 0x5958575655545352;
  ExpectStored(m,
               "03"                                // format version
               "0102030405060708"                  // epoch.generation
               "090a0b0c0d0e0f10"                  // epoch.counter
               "1112131415161718191a1b1c1d1e1f20"  // token
               "1213141516171819"                  // next_sequence
               "1a1b1c1d1e1f2021"                  // latest_epoch.generation
               "2223242526272829"                  // latest_epoch.counter
               "2a2b2c2d2e2f3031"                  // latest_sequence
               "01"                                // epoch_opened
               "01"                                // removed
               "3233343536373839"                  // persisted_epoch.generation
               "3a3b3c3d3e3f4041"                  // persisted_epoch.counter
               "4243444546474849"                  // persisted_sequence
               "4a4b4c4d"                          // persist_copies
               "4e4f5051"                          // persist_keep
               "5253545556575859");                // writes
  m.removed_generation = 0x61605f5e5d5c5b5a;
  ExpectStored(m,
               "03"                                // format version
               "0102030405060708"                  // epoch.generation
               "090a0b0c0d0e0f10"                  // epoch.counter
               "1112131415161718191a1b1c1d1e1f20"  // token
               "1213141516171819"                  // next_sequence
               "1a1b1c1d1e1f2021"                  // latest_epoch.generation
               "2223242526272829"                  // latest_epoch.counter
               "2a2b2c2d2e2f3031"                  // latest_sequence
               "01"                                // epoch_opened
               "01"                                // removed
               "3233343536373839"                  // persisted_epoch.generation
               "3a3b3c3d3e3f4041"                  // persisted_epoch.counter
               "4243444546474849"                  // persisted_sequence
               "4a4b4c4d"                          // persist_copies
               "4e4f5051"                          // persist_keep
               "5253545556575859"                  // writes
               "5a5b5c5d5e5f6061");                // removed_generation
}

TEST(StoredGolden, TokenRecord) {
  TokenRecord m;
  m.epoch = {0x0807060504030201, 0x100f0e0d0c0b0a09};
  ExpectStored(m,
               "03"                  // format version
               "0102030405060708"    // epoch.generation
               "090a0b0c0d0e0f10");  // epoch.counter
}

TEST(StoredGolden, OpenRecord) {
  OpenRecord m;
  m.snapshot = GoldenSnapshot();
  m.token = IdOf<EpochToken>(0x01);
  m.world_size = 0x05040302;
  m.layout_hash = {0x0d0c0b0a09080706, 0x1514131211100f0e};
  m.copies = 0x19181716;
  m.min_copies = 0x1d1c1b1a;
  m.keep_latest = 0x21201f1e;
  m.deadline_ms = 0x2928272625242322;
  m.map_version = 0x31302f2e2d2c2b2a;
  m.level = 0x35343332;
  m.persist_every = 0x39383736;
  m.persist_interval_s = 0x3d3c3b3a;
  m.persist_copies = 0x41403f3e;
  m.persist_keep = 0x45444342;
  ExpectStored(m,
               "03" +                                  // format version
                   kSnapshotHex +                      // snapshot
                   "0102030405060708090a0b0c0d0e0f10"  // token
                   "02030405"                          // world_size
                   "060708090a0b0c0d0e0f101112131415"  // layout_hash, low then high
                   "16171819"                          // copies
                   "1a1b1c1d"                          // min_copies
                   "1e1f2021"                          // keep_latest
                   "2223242526272829"                  // deadline_ms
                   "2a2b2c2d2e2f3031"                  // map_version
                   "32333435"                          // level
                   "36373839"                          // persist_every
                   "3a3b3c3d"                          // persist_interval_s
                   "3e3f4041"                          // persist_copies
                   "42434445");                        // persist_keep
}

TEST(StoredGolden, EndedRecord) {
  EndedRecord m;
  m.saves.resize(1);
  m.saves[0].epoch = {0x0807060504030201, 0x100f0e0d0c0b0a09};
  m.saves[0].sequence = 0x1817161514131211;
  m.saves[0].name = "s0";
  m.saves[0].attempt = 0x1c1b1a19;
  m.saves[0].committed = true;
  m.saves[0].code = 0x201f1e1d;
  m.saves[0].why = "full";
  m.saves[0].copies = 0x24232221;
  m.saves[0].full = true;
  m.saves[0].root = {0x2c2b2a2928272625, 0x34333231302f2e2d};
  ExpectStored(m,
               "03"                                // format version
               "01000000"                          // saves
               "0102030405060708090a0b0c0d0e0f10"  // epoch
               "1112131415161718"                  // sequence
               "02000000"
               "7330"      // name
               "191a1b1c"  // attempt
               "01"        // committed
               "1d1e1f20"  // code
               "04000000"
               "66756c6c"                            // why
               "21222324"                            // copies
               "01"                                  // full
               "25262728292a2b2c2d2e2f3031323334");  // root
}

// A strategy other than the default follows; as it was stored by who knew none, there is nothing.
TEST(StoredGolden, OpenRecordOfARing) {
  OpenRecord m;
  const std::string without = EncodeStored(m);
  m.strategy = StrategyChoice::kRing;
  ExpectStored(m, BytesToHex(without) + "01");
  EXPECT_EQ(DecodeStored<OpenRecord>("key", without)->strategy, StrategyChoice::kGroup);
  for (const char never : {'\0', '\2'}) {
    EXPECT_FALSE(DecodeStored<OpenRecord>("key", without + never).ok()) << static_cast<int>(never);
  }
}

TEST(StoredGolden, DrainRecord) {
  DrainRecord m;
  m.server = IdOf<ServerId>(0x01);
  m.forced = true;
  ExpectStored(m,
               "03"                                // format version
               "0102030405060708090a0b0c0d0e0f10"  // server
               "01");                              // forced
}

TEST(StoredGolden, RestoreRecord) {
  RestoreRecord m;
  m.epoch = {0x0807060504030201, 0x100f0e0d0c0b0a09};
  m.round = 0x14131211;
  m.world_size = 0x18171615;
  m.chosen_epoch = {0x201f1e1d1c1b1a19, 0x2827262524232221};
  m.chosen_sequence = 0x302f2e2d2c2b2a29;
  m.failed = true;
  m.lost.resize(2);
  m.lost[0] = "lost";
  m.lost[1] = "lost";
  m.verified = "verified";
  m.writes = 0x3837363534333231;
  ExpectStored(m,
               "03"                        // format version
               "0102030405060708"          // epoch.generation
               "090a0b0c0d0e0f10"          // epoch.counter
               "11121314"                  // round
               "15161718"                  // world_size
               "191a1b1c1d1e1f20"          // chosen_epoch.generation
               "2122232425262728"          // chosen_epoch.counter
               "292a2b2c2d2e2f30"          // chosen_sequence
               "01"                        // failed
               "02000000"                  // lost, count
               "040000006c6f7374"          // lost[0]
               "040000006c6f7374"          // lost[1]
               "080000007665726966696564"  // verified
               "3132333435363738");        // writes
}

}  // namespace
}  // namespace gemel
