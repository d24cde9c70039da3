// SPDX-License-Identifier: Apache-2.0
//
// Digests against published vectors, against values of Debian's shared libxxhash and of an
// independent computation of the Merkle layout, and all variants against each other.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"

#include "common/crc32c.h"
#include "common/digest.h"
#include "common/merkle.h"
#include "common/xxh3.h"

namespace gemel {
namespace {

using Bytes = std::vector<std::byte>;

Bytes Pattern(size_t size) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i) {
    bytes[i] = static_cast<std::byte>((static_cast<uint32_t>(i) * 0x9E3779B1u) >> 24);
  }
  return bytes;
}

std::span<const std::byte> AsBytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

struct KnownDigest {
  size_t size;
  const char* hex;
};

// XXH3_128bits of Pattern(size), from Debian's shared libxxhash. Sizes stand on both sides of each
// of the algorithm's cases and of this code's streaming threshold.
constexpr KnownDigest kKnownDigests[] = {
    {0, "99aa06d3014798d86001c324468d497f"},       {1, "a6cd5e9392000f6ac44bdff4074eecdb"},
    {3, "977fcbc0448b49f6e14090f554a5ea90"},       {4, "4e82b36688c5328f4ee6926f0426173e"},
    {8, "7b4966a681f18d5779d85adaeefd615e"},       {16, "78e8ab538d3acaab37286a19cf622308"},
    {17, "1ea709ada2b9c32e33bed349ec1c0ce7"},      {128, "5ac741c59c95d36ae1f0636051ccd2be"},
    {129, "1240f4d960139642cfb3fed667226458"},     {240, "640a6149838a7599b2e6947c477a4ab0"},
    {241, "e817e20e53e42a8c2d431e984c441f15"},     {1023, "5687286dd310b7db4e30bb611faa8f67"},
    {1024, "df4c8b9ff9715101e99def1145f12936"},    {1025, "63e845aab7eb695f83cba9b371e4e7f4"},
    {4096, "3203f3b99ad3538d9bf67f8deff876ae"},    {65536, "ce4ad9e587f44a1920605b76ceddc43b"},
    {1048576, "7e34237c007b503ea60868b9a5018405"}, {1048589, "aac1ba13f1a1e2c71d4c47b1ecfd19a8"},
};

TEST(Digest, TextIsHighThenLow) {
  const Digest128 digest{.low = 0x0123456789abcdef, .high = 0xfedcba9876543210};
  EXPECT_EQ(ToHex(digest), "fedcba98765432100123456789abcdef");
  EXPECT_EQ(DigestFromHex("fedcba98765432100123456789abcdef").value(), digest);
  EXPECT_EQ(DigestFromHex("FEDCBA98765432100123456789ABCDEF").value(), digest);
}

TEST(Digest, BytesAreLowThenHighLittleEndian) {
  const Digest128 digest{.low = 0x0706050403020100, .high = 0x0f0e0d0c0b0a0908};
  uint8_t bytes[kDigestBytes];
  EncodeDigest(digest, bytes);
  for (size_t i = 0; i < kDigestBytes; ++i) EXPECT_EQ(bytes[i], i);
  EXPECT_EQ(DecodeDigest(bytes), digest);
}

TEST(Digest, RefusesTextThatIsNoDigest) {
  for (const std::string& text : {std::string(), std::string(31, '0'), std::string(33, '0'),
                                  std::string(31, '0') + "g", "x" + std::string(31, '0')}) {
    const auto digest = DigestFromHex(text);
    ASSERT_FALSE(digest.ok()) << text;
    EXPECT_EQ(digest.status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(Digest, OnlyTheUnsetValueIsZero) {
  EXPECT_TRUE(Digest128{}.IsZero());
  EXPECT_FALSE((Digest128{.low = 1, .high = 0}).IsZero());
  EXPECT_FALSE((Digest128{.low = 0, .high = 1}).IsZero());
  EXPECT_FALSE(Xxh3_128({}).IsZero());
}

// RFC 3720, appendix B.4.
TEST(Crc32c, GivesTheValuesOfRfc3720) {
  std::array<std::byte, 32> data{};
  EXPECT_EQ(Crc32c(data), 0x8a9136aau);
  data.fill(std::byte{0xff});
  EXPECT_EQ(Crc32c(data), 0x62a8ab43u);
  for (size_t i = 0; i < 32; ++i) data[i] = static_cast<std::byte>(i);
  EXPECT_EQ(Crc32c(data), 0x46dd794eu);
  std::reverse(data.begin(), data.end());
  EXPECT_EQ(Crc32c(data), 0x113fdb5cu);
}

TEST(Crc32c, GivesTheValueOfAnIscsiReadCommand) {
  const std::array<uint8_t, 48> read_command = {
      0x01, 0xc0, 0, 0,    0, 0, 0, 0,    0,    0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0,
      0,    0,    0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0,    0};
  EXPECT_EQ(Crc32c(std::as_bytes(std::span(read_command))), 0xd9963a56u);
}

TEST(Crc32c, GivesTheCheckValueOfTheCatalogue) {
  EXPECT_EQ(Crc32c(AsBytes("123456789")), 0xe3069283u);
  EXPECT_EQ(Crc32c({}), 0u);
}

TEST(Crc32c, TheTableGivesTheValuesOfRfc3720) {
  EXPECT_EQ(internal::Crc32cTable(AsBytes("123456789"), 0), 0xe3069283u);
  EXPECT_EQ(internal::Crc32cTable(std::array<std::byte, 32>{}, 0), 0x8a9136aau);
}

TEST(Crc32c, TableAndInstructionAgreeAtEverySizeAndAlignment) {
  if (!internal::HasCrc32cInstruction()) GTEST_SKIP() << "no SSE4.2 here";
  const Bytes bytes = Pattern(size_t{50020});
  std::vector<size_t> sizes = {767, 768, 769, 1536, 24575, 24576, 24577, 49152, 49152 + 768 + 33};
  for (size_t size = 0; size <= 80; ++size) sizes.push_back(size);
  for (size_t size : sizes) {
    for (size_t start : {0u, 1u, 7u, 8u}) {
      const auto data = std::span(bytes).subspan(start, size);
      EXPECT_EQ(internal::Crc32cTable(data, 77), internal::Crc32cInstruction(data, 77))
          << size << " bytes from " << start;
    }
  }
}

TEST(Crc32c, ContinuesFromASeed) {
  const Bytes bytes = Pattern(30000);
  const auto all = std::span<const std::byte>(bytes);
  for (size_t cut : {0u, 1u, 63u, 768u, 24576u, 29999u, 30000u}) {
    EXPECT_EQ(Crc32c(all.subspan(cut), Crc32c(all.first(cut))), Crc32c(all)) << cut;
  }
}

TEST(Crc32c, SeesEverySingleBitOfAHeader) {
  Bytes header = Pattern(64);
  const uint32_t crc = Crc32c(header);
  for (size_t bit = 0; bit < size_t{64} * 8; ++bit) {
    header[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_NE(Crc32c(header), crc) << "bit " << bit;
    header[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

class Xxh3EveryIsa : public testing::TestWithParam<Xxh3Isa> {
 protected:
  void SetUp() override {
    const auto isas = SupportedXxh3Isas();
    if (std::find(isas.begin(), isas.end(), GetParam()) == isas.end()) {
      GTEST_SKIP() << "not on this processor: " << Xxh3IsaName(GetParam());
    }
  }
};

TEST_P(Xxh3EveryIsa, GivesTheDigestsOfTheReference) {
  for (const KnownDigest& known : kKnownDigests) {
    EXPECT_EQ(ToHex(Xxh3_128(Pattern(known.size), GetParam())), known.hex) << known.size;
  }
}

Digest128 DigestInPieces(Xxh3Isa isa, std::span<const std::byte> bytes, size_t piece) {
  Xxh3Stream stream(isa);
  for (size_t done = 0; done < bytes.size(); done += piece) {
    stream.Update(bytes.subspan(done, std::min(piece, bytes.size() - done)));
    stream.Update({});
  }
  return stream.Finish();
}

TEST_P(Xxh3EveryIsa, StreamEqualsOneCallWhateverThePieces) {
  const Bytes bytes = Pattern(20011);
  const Digest128 whole = Xxh3_128(bytes, Xxh3Isa::kBaseline);
  for (size_t piece : {1u, 63u, 64u, 255u, 256u, 257u, 1024u, 4096u, 20011u}) {
    EXPECT_EQ(DigestInPieces(GetParam(), bytes, piece), whole) << "pieces of " << piece;
  }
}

// One digest over pieces that are copied, some of them past the cache, at any alignment.
TEST_P(Xxh3EveryIsa, StreamCopiesEveryPieceToItsPlace) {
  constexpr size_t kStreamed = internal::kStreamingCopyBytesMin;
  const Bytes bytes = Pattern(4 * kStreamed + 4321);
  const Digest128 whole = Xxh3_128(bytes, Xxh3Isa::kBaseline);
  for (size_t piece : {size_t{1000}, size_t{4096}, kStreamed - 1, kStreamed, kStreamed + 321}) {
    Bytes copied(bytes.size() + 2);
    Xxh3Stream stream(GetParam());
    for (size_t at = 0; at < bytes.size(); at += piece) {
      const size_t size = std::min(piece, bytes.size() - at);
      stream.CopyAndUpdate(copied.data() + 1 + at, bytes.data() + at, size);
    }
    EXPECT_EQ(stream.Finish(), whole) << "pieces of " << piece;
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), copied.begin() + 1)) << piece;
    EXPECT_EQ(copied.front(), std::byte{0});
    EXPECT_EQ(copied.back(), std::byte{0});
  }
}

// Copies `size` bytes from and to addresses off a cache line by `shift`; the bytes around the
// target must stay.
void CheckCopy(Xxh3Isa isa, const Bytes& source, size_t size, size_t shift) {
  SCOPED_TRACE(testing::Message() << size << " bytes, shifted by " << shift);
  constexpr size_t kGuard = 64;
  constexpr std::byte kUntouched{0xa5};
  const std::byte* from = source.data() + shift / 2;
  Bytes expected(size + 2 * kGuard + shift, kUntouched);
  Bytes target = expected;
  std::copy(from, from + size, expected.begin() + static_cast<ptrdiff_t>(kGuard + shift));
  const Digest128 digest = CopyAndDigest(target.data() + kGuard + shift, from, size, isa);
  EXPECT_EQ(digest, Xxh3_128(std::span(from, size), Xxh3Isa::kBaseline));
  EXPECT_TRUE(target == expected);
}

TEST_P(Xxh3EveryIsa, CopyStoresTheBytesAndGivesTheirDigest) {
  constexpr size_t kThreshold = internal::kStreamingCopyBytesMin;
  constexpr size_t kMebibyte = size_t{1} << 20;
  constexpr size_t kSizes[] = {0,
                               1,
                               240,
                               241,
                               4096,
                               4097,
                               kThreshold - 1,
                               kThreshold,
                               kThreshold + 1,
                               kMebibyte,
                               kMebibyte + 77};
  const Bytes source = Pattern(kMebibyte + 200);
  for (size_t size : kSizes) {
    for (size_t shift : {0u, 1u, 33u, 63u}) CheckCopy(GetParam(), source, size, shift);
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, Xxh3EveryIsa,
                         testing::Values(Xxh3Isa::kBaseline, Xxh3Isa::kAvx2, Xxh3Isa::kAvx512),
                         [](const auto& info) { return std::string(Xxh3IsaName(info.param)); });

TEST(Xxh3, TheChoiceIsSupportedAndUsedByDefault) {
  const auto isas = SupportedXxh3Isas();
  EXPECT_EQ(isas.front(), Xxh3Isa::kBaseline);
  EXPECT_NE(std::find(isas.begin(), isas.end(), PreferredXxh3Isa()), isas.end());
  for (const KnownDigest& known : kKnownDigests) {
    const Bytes bytes = Pattern(known.size);
    Bytes target(known.size);
    EXPECT_EQ(ToHex(Xxh3_128(bytes)), known.hex);
    EXPECT_EQ(ToHex(CopyAndDigest(target.data(), bytes.data(), known.size)), known.hex);
    EXPECT_EQ(target, bytes);
  }
}

TEST(Xxh3, StreamWorksAtAnyAddress) {
  // A coroutine frame is aligned to 16 bytes only.
  alignas(64) std::byte room[sizeof(Xxh3Stream) + 64];
  for (size_t shift = 0; shift < 64; shift += alignof(Xxh3Stream)) {
    auto* stream = new (room + shift) Xxh3Stream();
    stream->Update(Pattern(1025));
    EXPECT_EQ(ToHex(stream->Finish()), "63e845aab7eb695f83cba9b371e4e7f4") << shift;
    stream->Reset();
    EXPECT_EQ(ToHex(stream->Finish()), "99aa06d3014798d86001c324468d497f") << shift;
    stream->~Xxh3Stream();
  }
}

TEST(Xxh3, AFinishedStreamTakesNothingBeforeReset) {
  Xxh3Stream stream;
  stream.Finish();
  EXPECT_DEATH(stream.Update(AsBytes("x")), "after Finish");
  Bytes bytes = Pattern(20);
  EXPECT_DEATH(stream.CopyAndUpdate(bytes.data(), bytes.data() + 10, 10), "after Finish");
  EXPECT_DEATH(stream.Finish(), "finished twice");
}

TEST(Xxh3, CopyRefusesOverlapAndNull) {
  Bytes bytes = Pattern(100);
  EXPECT_DEATH(CopyAndDigest(bytes.data() + 10, bytes.data(), 20), "Overlap");
  EXPECT_DEATH(CopyAndDigest(bytes.data(), bytes.data() + 19, 20), "Overlap");
  EXPECT_DEATH(CopyAndDigest(nullptr, bytes.data(), 20), "20 bytes to copy");
  EXPECT_DEATH(Xxh3Stream().CopyAndUpdate(bytes.data() + 10, bytes.data(), 20), "Overlap");
  EXPECT_DEATH(Xxh3Stream().CopyAndUpdate(bytes.data(), nullptr, 20), "20 bytes to copy");
  EXPECT_EQ(CopyAndDigest(nullptr, nullptr, 0), Xxh3_128({}));
  EXPECT_EQ(CopyAndDigest(bytes.data(), bytes.data() + 20, 20),
            Xxh3_128(std::span(bytes).subspan(20, 20)));
}

constexpr std::string_view kOwner = "job-7/epoch-3";
constexpr std::string_view kName = "rank-1/shard";
constexpr uint32_t kChunkBytes = 100;

std::vector<Digest128> ChunkDigests(uint64_t object_bytes) {
  std::vector<Digest128> digests;
  for (uint64_t i = 1; i <= ChunkCount(object_bytes, kChunkBytes); ++i) {
    digests.push_back(Digest128{.low = i, .high = 0x1122334455667788 * i});
  }
  return digests;
}

Digest128 RootOf(uint64_t object_bytes) {
  return MerkleRoot(kOwner, kName, ChunkDigests(object_bytes), object_bytes, kChunkBytes);
}

TEST(Merkle, LeafKeepsItsGoldenValue) {
  const ChunkLeaf leaf{.digest = Xxh3_128(Pattern(241)), .offset = 1 << 20, .length = 241};
  EXPECT_EQ(ToHex(MerkleLeaf(kOwner, kName, leaf)), "0b3c2c7fecdb153e1977e1fa79cc3e5b");
}

TEST(Merkle, RootsKeepTheirGoldenValues) {
  const KnownDigest roots[] = {
      {0, "c4b26138a64ea85d0cde2711d61e881f"},   {1, "ca19188ea15888e2094583c20336d412"},
      {200, "4291b9ad9aa9fc507a525896200f0a40"}, {241, "3bfba009a8b109c2b16049480b2d246f"},
      {401, "e7d6d6c5486000b0b4b5813e6f38f717"}, {800, "f11389887a80bba17d35bb0002ceccb0"},
  };
  for (const KnownDigest& root : roots) EXPECT_EQ(ToHex(RootOf(root.size)), root.hex) << root.size;
}

TEST(Merkle, RootBindsOwnerNameSizeAndContent) {
  const std::vector<Digest128> digests = ChunkDigests(401);
  const Digest128 root = RootOf(401);
  EXPECT_NE(MerkleRoot("job-8/epoch-3", kName, digests, 401, kChunkBytes), root);
  EXPECT_NE(MerkleRoot(kOwner, "rank-2/shard", digests, 401, kChunkBytes), root);
  EXPECT_NE(MerkleRoot(kOwner, kName, digests, 402, kChunkBytes), root);
  EXPECT_NE(MerkleRoot(kOwner, kName, digests, 401, kChunkBytes - 1), root);
  for (size_t i = 0; i < digests.size(); ++i) {
    std::vector<Digest128> damaged = digests;
    damaged[i].high ^= uint64_t{1} << 63;
    EXPECT_NE(MerkleRoot(kOwner, kName, damaged, 401, kChunkBytes), root) << "chunk " << i;
  }
}

TEST(Merkle, RightChunksInTheWrongPlaceFail) {
  const std::vector<Digest128> digests = ChunkDigests(401);
  for (size_t i = 0; i + 1 < digests.size(); ++i) {
    std::vector<Digest128> swapped = digests;
    std::swap(swapped[i], swapped[i + 1]);
    EXPECT_NE(MerkleRoot(kOwner, kName, swapped, 401, kChunkBytes), RootOf(401)) << i;
  }
}

TEST(Merkle, TheBorderBetweenOwnerAndNameCounts) {
  const ChunkLeaf leaf{.digest = {}, .offset = 0, .length = 1};
  EXPECT_NE(MerkleLeaf("ab", "c", leaf), MerkleLeaf("a", "bc", leaf));
  EXPECT_NE(MerkleRoot("ab", "c", {}, 0, 1), MerkleRoot("a", "bc", {}, 0, 1));
}

TEST(Merkle, EmptyObjectsOfDifferentNamesDiffer) {
  EXPECT_NE(MerkleRoot(kOwner, "a", {}, 0, kChunkBytes),
            MerkleRoot(kOwner, "b", {}, 0, kChunkBytes));
  EXPECT_FALSE(MerkleRoot(kOwner, "a", {}, 0, kChunkBytes).IsZero());
}

TEST(Merkle, ALoneLastNodeIsNotTheSameNodeTwice) {
  std::vector<Digest128> three = ChunkDigests(300);
  std::vector<Digest128> four = three;
  four.push_back(three.back());
  EXPECT_NE(MerkleRoot(kOwner, kName, three, 300, kChunkBytes),
            MerkleRoot(kOwner, kName, four, 400, kChunkBytes));
}

TEST(Merkle, PlacesEveryChunk) {
  EXPECT_EQ(ChunkCount(0, kChunkBytes), 0u);
  EXPECT_EQ(ChunkCount(1, kChunkBytes), 1u);
  EXPECT_EQ(ChunkCount(100, kChunkBytes), 1u);
  EXPECT_EQ(ChunkCount(101, kChunkBytes), 2u);
  EXPECT_EQ(ChunkCount(UINT64_MAX, 1u << 20), uint64_t{1} << 44);
  const ChunkLeaf last = LeafAt(4, {}, 401, kChunkBytes);
  EXPECT_EQ(last.offset, 400u);
  EXPECT_EQ(last.length, 1u);
  EXPECT_EQ(LeafAt(3, {}, 401, kChunkBytes).length, kChunkBytes);
  EXPECT_EQ(LeafAt((uint64_t{1} << 44) - 1, {}, UINT64_MAX, 1u << 20).length, (1u << 20) - 1);
}

TEST(Merkle, RefusesACountThatDoesNotMatchTheBytes) {
  const std::vector<Digest128> digests = ChunkDigests(401);
  EXPECT_DEATH(MerkleRoot(kOwner, kName, digests, 400, kChunkBytes), "400 bytes");
  EXPECT_DEATH(MerkleRoot(kOwner, kName, digests, 501, kChunkBytes), "501 bytes");
  EXPECT_DEATH(MerkleRoot(kOwner, kName, {}, 1, kChunkBytes), "1 bytes");
  EXPECT_DEATH(MerkleRoot(kOwner, kName, digests, 401, 0), "check failed");
  EXPECT_DEATH(LeafAt(5, {}, 401, kChunkBytes), "check failed");
}

TEST(Merkle, RefusesALabelThatIsTooLong) {
  const std::string longest(kMerkleLabelBytesMax, 'n');
  EXPECT_FALSE(MerkleRoot(kOwner, longest, {}, 0, kChunkBytes).IsZero());
  EXPECT_DEATH(MerkleRoot(kOwner, longest + "n", {}, 0, kChunkBytes), "4097 against 4096");
}

}  // namespace
}  // namespace gemel
