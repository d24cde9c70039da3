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
      "02"                                        // version
      "05"                                        // packets of 4096 bytes
      "0201"                                      // lid
      "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"          // gid
      "14131211"                                  // queue pair
      "23222100"                                  // first packet
      "10000000"                                  // slots
      "00000100"                                  // bytes of each
      "0000000000000000000000000000000000000000"  // unused
      "28ee1e4d";                                 // crc32c
  EXPECT_EQ(BytesToHex(EncodeVerbsHello(hello)), hex);
}

TEST(VerbsGolden, PreludeBytes) {
  std::vector<std::byte> message(kVerbsPreludeBytes + 4);
  EncodeVerbsPrelude({.returned = 0x0102, .bytes = 4, .read = 0x0304}, message);
  EXPECT_EQ(BytesToHex(AsText(message)),
            "02"            // version
            "00"            // no reference
            "0201"          // receives given back
            "04000000"      // bytes of the stream
            "0403"          // references read
            "000000000000"  // unused
            "00000000");    // the bytes
}

TEST(VerbsGolden, ReferenceBytes) {
  std::vector<std::byte> message(kVerbsPreludeBytes + 4 + kVerbsReferenceBytes);
  VerbsPrelude prelude{.bytes = 4};
  prelude.reference = {.place = {.address = 0x0102030405060708, .key = 0x11121314},
                       .bytes = 0x212223};
  EXPECT_EQ(EncodeVerbsPrelude(prelude, message), message.size());
  EXPECT_EQ(BytesToHex(AsText(message)),
            "02"                // version
            "01"                // a reference
            "0000"              // receives given back
            "04000000"          // bytes of the stream
            "0000"              // references read
            "000000000000"      // unused
            "00000000"          // the bytes
            "0807060504030201"  // address
            "14131211"          // key
            "23222100");        // bytes there
}

TEST(VerbsGolden, LimitsAreThoseOfTheDocument) {
  EXPECT_EQ(kVerbsSlotsMin, 4U);
  EXPECT_EQ(kVerbsSlotsMax, 1024U);
  EXPECT_EQ(kVerbsSlotBytesMin, 256U);
  EXPECT_EQ(kVerbsSlotBytesMax, 1U << 20);
  EXPECT_EQ(kVerbsReferredBytesMax, 1U << 20);
}

}  // namespace
}  // namespace gemel
