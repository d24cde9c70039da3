// SPDX-License-Identifier: Apache-2.0
//
// The bytes of the slab directory (docs/formats/slabs.md) and of a server's identity
// (docs/formats/records.md), for ever.
#include <gtest/gtest.h>

#include <string>

#include "common/crc32c.h"
#include "server/identity.h"
#include "server/slab_directory.h"
#include "tests/golden/golden_bytes.h"

namespace gemel {
namespace {

// The record as hexadecimal with its padding checked and cut away; its checksum follows after '|'.
std::string Used(const std::string& record, size_t used) {
  for (size_t at = used; at < record.size() - 4; ++at) {
    EXPECT_EQ(record[at], '\0') << at;
  }
  return BytesToHex(record.substr(0, used)) + "|" + BytesToHex(record.substr(record.size() - 4));
}

SlabEntry Entry() {
  SlabEntry entry;
  entry.slab = 5;
  entry.state = SlabState::kInUse;
  entry.slab_class = SlabClass::kSnapshot;
  entry.sealed = true;
  entry.generation = 0x0102030405060708;
  entry.holder = 4711;
  entry.shard.snapshot = {"gpt", {1, 7}, 12, "step", 3};
  entry.shard.rank = 9;
  entry.token = IdOf<EpochToken>(0x40);
  entry.offset = 0x4000000;
  entry.length = 0x1000;
  entry.object_bytes = 0x4001000;
  entry.layout_bytes = 0x200;
  entry.root = {0x1112131415161718, 0x2122232425262728};
  return entry;
}

SlabDirectoryHeader Header() {
  SlabDirectoryHeader header;
  header.server = IdOf<ServerId>(0x10);
  header.incarnation = IdOf<Incarnation>(0x20);
  header.life = 0x0807060504030201;
  header.slab_bytes = 64 * kMiB;
  header.slabs = 3;
  return header;
}

TEST(SlabDirectoryGolden, Header) {
  const std::string raw = EncodeSlabDirectoryHeader(Header());
  ASSERT_EQ(raw.size(), kSlabDirectoryHeaderBytes);
  EXPECT_EQ(Used(raw, 61),
            "474d5344"                          // magic
            "02"                                // version
            "101112131415161718191a1b1c1d1e1f"  // server
            "202122232425262728292a2b2c2d2e2f"  // incarnation
            "0102030405060708"                  // life
            "0000000400000000"                  // slab_bytes
            "03000000"                          // slabs
            "00020000"                          // entry_bytes
            "|418b710c");
  EXPECT_EQ(*DecodeSlabDirectoryHeader(raw), Header());
}

TEST(SlabDirectoryGolden, Entry) {
  const std::string raw = EncodeSlabEntry(Entry());
  ASSERT_EQ(raw.size(), kSlabEntryBytes);
  EXPECT_EQ(Used(raw, 139),
            "474d534c"                          // magic
            "02"                                // version
            "05000000"                          // slab
            "02"                                // state
            "01"                                // class
            "01"                                // sealed
            "0807060504030201"                  // generation
            "6712000000000000"                  // holder
            "03000000"                          // job
            "677074"                            //
            "0100000000000000"                  // epoch generation
            "0700000000000000"                  // epoch counter
            "0c00000000000000"                  // sequence
            "04000000"                          // name
            "73746570"                          //
            "03000000"                          // attempt
            "09000000"                          // rank
            "404142434445464748494a4b4c4d4e4f"  // token
            "0000000400000000"                  // offset
            "0010000000000000"                  // length
            "0010000400000000"                  // object_bytes
            "0002000000000000"                  // layout_bytes
            "18171615141312112827262524232221"  // root
            "|7a561507");
  EXPECT_EQ(*DecodeSlabEntry(raw), Entry());
}

TEST(SlabDirectoryGolden, TheLargestIdentityFits) {
  SlabEntry entry = Entry();
  entry.shard.snapshot.job = std::string(model::kJobNameBytesMax, 'j');
  entry.shard.snapshot.name = std::string(model::kSnapshotNameBytesMax, 'n');
  EXPECT_EQ(*DecodeSlabEntry(EncodeSlabEntry(entry)), entry);
}

TEST(IdentityGolden, File) {
  IdentityFile file;
  file.server = IdOf<ServerId>(0x10);
  file.cluster = IdOf<ClusterId>(0x20);
  file.generation = 2;
  file.term = 5;
  file.epochs["gpt"] = {1, 7};
  file.last_members = {IdOf<ServerId>(0x30)};
  EXPECT_EQ(BytesToHex(EncodeIdentity(file)),
            "474d4944"                          // magic
            "02"                                // version
            "101112131415161718191a1b1c1d1e1f"  // server
            "202122232425262728292a2b2c2d2e2f"  // cluster
            "0200000000000000"                  // generation
            "0500000000000000"                  // term
            "01000000"                          // epochs
            "03000000"
            "677074"
            "0100000000000000"
            "0700000000000000"
            "01000000"  // last_members
            "303132333435363738393a3b3c3d3e3f");
}

}  // namespace
}  // namespace gemel
