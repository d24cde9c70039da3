// SPDX-License-Identifier: Apache-2.0
//
// The bytes of every message between server and keeper (docs/formats/keeper.md), for ever.
#include <gtest/gtest.h>

#include "server/keeper/keeper_messages.h"
#include "tests/golden/golden_bytes.h"

namespace gemel {
namespace {

const std::string kNamesHex =
    "03000000"           // count
    "01"                 // [0].kind: directory
    "0201000000000000"   // [0].number
    "02"                 // [1].kind: slab
    "0403000000000000"   // [1].number
    "03"                 // [2].kind: client
    "0605000000000000";  // [2].number

std::vector<KeptName> GoldenNames() {
  return {{KeptKind::kDirectory, 0x0102}, {KeptKind::kSlab, 0x0304}, {KeptKind::kClient, 0x0506}};
}

TEST(KeeperMessagesGolden, KeeperHello) {
  KeeperHello m;
  m.version = 0x04030201;
  m.server_name = "server_name";
  m.server = IdOf<ServerId>(0x05);
  m.cluster = IdOf<ClusterId>(0x06);
  m.incarnation = IdOf<Incarnation>(0x07);
  ExpectMessage(m,
                "01020304"                            // version
                "0b0000007365727665725f6e616d65"      // server_name
                "05060708090a0b0c0d0e0f1011121314"    // server
                "060708090a0b0c0d0e0f101112131415"    // cluster
                "0708090a0b0c0d0e0f10111213141516");  // incarnation
}

TEST(KeeperMessagesGolden, KeeperHelloReply) {
  KeeperHelloReply m;
  m.version = 0x04030201;
  m.items = 0x08070605;
  ExpectMessage(m,
                "01020304"    // version
                "05060708");  // items
}

TEST(KeeperMessagesGolden, KeeperTake) {
  KeeperTake m;
  m.first = 0x04030201;
  ExpectMessage(m, "01020304");
}

TEST(KeeperMessagesGolden, ListsOfItems) {
  KeeperTakeReply taken;
  taken.items = GoldenNames();
  ExpectMessage(taken, kNamesHex);
  KeeperGive given;
  given.items = GoldenNames();
  ExpectMessage(given, kNamesHex);
  KeeperForget forgotten;
  forgotten.items = GoldenNames();
  ExpectMessage(forgotten, kNamesHex);
  ExpectMessage(KeeperDone(), "");
}

TEST(KeeperMessagesGolden, AnUnknownKindIsRefused) {
  std::string raw = EncodeMessage(KeeperGive{GoldenNames()});
  raw[4] = 4;
  EXPECT_FALSE(DecodeMessage<KeeperGive>(raw).ok());
  raw[4] = 0;
  EXPECT_FALSE(DecodeMessage<KeeperGive>(raw).ok());
}

}  // namespace
}  // namespace gemel
