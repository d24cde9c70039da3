// SPDX-License-Identifier: Apache-2.0
//
// The bytes of what two sides of the verbs fabric tell each other (docs/formats/verbs.md), for
// ever.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/golden/golden_bytes.h"
#include "transport/verbs/verbs_hello.h"

namespace gemel {
namespace {

TEST(VerbsGolden, HelloBytes) {
  VerbsHello hello;
  for (size_t i = 0; i < sizeof(hello.address.gid.raw); ++i) {
    hello.address.gid.raw[i] = static_cast<uint8_t>(0xA0 + i);
  }
  hello.address.lid = 0x0102;
  hello.address.mtu = IBV_MTU_4096;
  hello.address.queue_pair = 0x11121314;
  hello.address.first_packet = 0x00212223;
  hello.slots = 16;
  hello.slot_bytes = 0x00010000;
  const std::string hex =
      "47454d56"                                  // magic "GEMV"
      "01"                                        // version
      "05"                                        // packets of 4096 bytes
      "0201"                                      // lid
      "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"          // gid
      "14131211"                                  // queue pair
      "23222100"                                  // first packet
      "10000000"                                  // slots
      "00000100"                                  // bytes of each
      "0000000000000000000000000000000000000000"  // unused
      "d1fe2dea";                                 // crc32c
  EXPECT_EQ(BytesToHex(EncodeVerbsHello(hello)), hex);
}

TEST(VerbsGolden, PreludeBytes) {
  std::vector<std::byte> message(kVerbsPreludeBytes + 4);
  EncodeVerbsPrelude({.returned = 0x0102, .bytes = 4}, message);
  EXPECT_EQ(BytesToHex(AsText(message)),
            "01"          // version
            "00"          // unused
            "0201"        // receives given back
            "04000000"    // bytes of the stream
            "00000000");  // which they are
}

TEST(VerbsGolden, LimitsAreThoseOfTheDocument) {
  EXPECT_EQ(kVerbsSlotsMin, 4U);
  EXPECT_EQ(kVerbsSlotsMax, 1024U);
  EXPECT_EQ(kVerbsSlotBytesMin, 256U);
  EXPECT_EQ(kVerbsSlotBytesMax, 1U << 20);
}

}  // namespace
}  // namespace gemel
