// SPDX-License-Identifier: Apache-2.0
//
// The bytes of every message between servers (docs/formats/messages.md), for ever.
#include <gtest/gtest.h>

#include "tests/golden/golden_bytes.h"
#include "transport/peer/messages.h"

namespace gemel {
namespace {

TEST(PeerMessagesGolden, PeerHello) {
  PeerHello m;
  m.version = 0x04030201;
  m.cluster = IdOf<ClusterId>(0x05);
  m.server = IdOf<ServerId>(0x06);
  m.incarnation = IdOf<Incarnation>(0x07);
  m.server_name = "server_name";
  ExpectMessage(m,
                "01020304"                          // version
                "05060708090a0b0c0d0e0f1011121314"  // cluster
                "060708090a0b0c0d0e0f101112131415"  // server
                "0708090a0b0c0d0e0f10111213141516"  // incarnation
                "0b0000007365727665725f6e616d65");  // server_name
  m.features = 0x0b0a0908;
  ExpectMessage(m,
                "01020304"                          // version
                "05060708090a0b0c0d0e0f1011121314"  // cluster
                "060708090a0b0c0d0e0f101112131415"  // server
                "0708090a0b0c0d0e0f10111213141516"  // incarnation
                "0b0000007365727665725f6e616d65"    // server_name
                "08090a0b");                        // features, left out when they are 0
}

TEST(PeerMessagesGolden, Features) {
  EXPECT_EQ(kPeerCancels, 1U);
  EXPECT_EQ(kHelloReadsFeatures, 1U);  // the header's offset in a hello
}

TEST(PeerMessagesGolden, Offer) {
  Offer m;
  m.shard = GoldenShard();
  m.token = IdOf<EpochToken>(0x01);
  m.bytes = 0x0908070605040302;
  m.layout_bytes = 0x11100f0e0d0c0b0a;
  ExpectMessage(m,
                kShardHex +                             // shard
                    "0102030405060708090a0b0c0d0e0f10"  // token
                    "0203040506070809"                  // bytes
                    "0a0b0c0d0e0f1011");                // layout_bytes
  m.limit = GrantLimit::kCredit;
  ExpectMessage(m,
                kShardHex +                             // shard
                    "0102030405060708090a0b0c0d0e0f10"  // token
                    "0203040506070809"                  // bytes
                    "0a0b0c0d0e0f1011"                  // layout_bytes
                    "01");                              // limit, left out when it is 0
}

TEST(PeerMessagesGolden, OfferReply) {
  OfferReply m;
  m.already_sealed = true;
  m.root = {0x0807060504030201, 0x100f0e0d0c0b0a09};
  m.region = 0x1817161514131211;
  m.generation = 0x201f1e1d1c1b1a19;
  ExpectMessage(m,
                "01"                                // already_sealed
                "0102030405060708090a0b0c0d0e0f10"  // root, low then high
                "1112131415161718"                  // region
                "191a1b1c1d1e1f20");                // generation
  m.limit = GrantLimit::kCredit;
  ExpectMessage(m,
                "01"                                // already_sealed
                "0102030405060708090a0b0c0d0e0f10"  // root, low then high
                "1112131415161718"                  // region
                "191a1b1c1d1e1f20"                  // generation
                "01");                              // limit, left out when it is 0
}

TEST(PeerMessagesGolden, AskCredit) {
  AskCredit m;
  m.wanted = 0x04030201;
  m.have = 0x14131211;
  ExpectMessage(m,
                "01020304"    // wanted
                "11121314");  // have
}

TEST(PeerMessagesGolden, Credit) {
  Credit m;
  m.chunks = 0x04030201;
  ExpectMessage(m, "01020304");  // chunks
}

TEST(PeerMessagesGolden, Write) {
  Write m;
  m.digest = {0x0807060504030201, 0x100f0e0d0c0b0a09};
  ExpectMessage(m,
                "0102030405060708090a0b0c0d0e0f10");  // digest, low then high
  m.sent = WriteSent::kAgain;
  ExpectMessage(m,
                "0102030405060708090a0b0c0d0e0f10"  // digest
                "01");                              // sent, left out when it is 0
}

TEST(PeerMessagesGolden, PeerSeal) {
  PeerSeal m;
  m.shard = GoldenShard();
  m.root = {0x0807060504030201, 0x100f0e0d0c0b0a09};
  ExpectMessage(m,
                kShardHex +                               // shard
                    "0102030405060708090a0b0c0d0e0f10");  // root, low then high
}

TEST(PeerMessagesGolden, Revoke) {
  Revoke m;
  m.shard = GoldenShard();
  ExpectMessage(m,
                kShardHex);  // shard
}

TEST(PeerMessagesGolden, Describe) {
  Describe m;
  m.shard = GoldenShard();
  m.root = {0x0807060504030201, 0x100f0e0d0c0b0a09};
  ExpectMessage(m,
                kShardHex +                               // shard
                    "0102030405060708090a0b0c0d0e0f10");  // root, low then high
}

TEST(PeerMessagesGolden, DescribeReply) {
  DescribeReply m;
  m.bytes = 0x0807060504030201;
  m.layout_bytes = 0x100f0e0d0c0b0a09;
  m.digests.resize(2);
  m.digests[0] = {0x1817161514131211, 0x201f1e1d1c1b1a19};
  m.digests[1] = {0x2827262524232221, 0x302f2e2d2c2b2a29};
  ExpectMessage(m,
                "0102030405060708"                    // bytes
                "090a0b0c0d0e0f10"                    // layout_bytes
                "02000000"                            // digests, count
                "1112131415161718191a1b1c1d1e1f20"    // digests[0], low then high
                "2122232425262728292a2b2c2d2e2f30");  // digests[1], low then high
}

TEST(PeerMessagesGolden, Read) {
  Read m;
  m.shard = GoldenShard();
  m.root = {0x0807060504030201, 0x100f0e0d0c0b0a09};
  m.chunk = 0x14131211;
  ExpectMessage(m,
                kShardHex +                             // shard
                    "0102030405060708090a0b0c0d0e0f10"  // root, low then high
                    "11121314");                        // chunk
}

}  // namespace
}  // namespace gemel
