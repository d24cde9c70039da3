// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "common/codec.h"
#include "common/errors.h"

namespace gemel {
namespace {

enum class Colour : uint8_t { kRed = 1, kBlue = 200 };

struct Record {
  uint8_t small = 250;
  uint64_t large = std::numeric_limits<uint64_t>::max() - 5;
  int32_t negative = -7;
  bool flag = true;
  Colour colour = Colour::kBlue;
  std::string text = std::string("a\0b", 3);
  ServerId server;
  EpochId epoch{3, 9};
  std::vector<uint16_t> list{1, 2, 65535};

  friend bool operator==(const Record&, const Record&) = default;
};

std::string Encode(const Record& record) {
  Encoder out;
  out.Int(record.small).Int(record.large).Int(record.negative).Int(record.flag).Int(record.colour);
  out.String(record.text).Id(record.server).Epoch(record.epoch);
  out.Int(static_cast<uint32_t>(record.list.size()));
  for (uint16_t item : record.list) {
    out.Int(item);
  }
  return out.Take();
}

absl::StatusOr<Record> Decode(std::string_view bytes) {
  Decoder in(bytes);
  Record record;
  record.small = in.Int<uint8_t>("small");
  record.large = in.Int<uint64_t>("large");
  record.negative = in.Int<int32_t>("negative");
  record.flag = in.Int<bool>("flag");
  record.colour = in.Int<Colour>("colour");
  record.text = in.String("text", 16);
  record.server = in.Id<ServerTag>("server");
  record.epoch = in.Epoch("epoch");
  record.list.resize(in.Count("list", sizeof(uint16_t)));
  for (uint16_t& item : record.list) {
    item = in.Int<uint16_t>("item");
  }
  absl::Status end = in.Finish("record");
  if (!end.ok()) {
    return end;
  }
  return record;
}

Record Sample() {
  Random random(5);
  Record record;
  record.server = ServerId::Draw(&random);
  return record;
}

TEST(Codec, GivesBackWhatWasEncoded) {
  auto decoded = Decode(Encode(Sample()));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, Sample());
}

TEST(Codec, IsLittleEndianWithoutPadding) {
  Encoder out;
  out.Int(uint8_t{1}).Int(uint32_t{0x04030201}).Int(int16_t{-2}).String("hi").Raw("!");
  EXPECT_EQ(out.size(), 14U);
  EXPECT_EQ(out.Take(), std::string("\x01\x01\x02\x03\x04\xfe\xff\x02\0\0\0hi!", 14));
}

TEST(Codec, FailsAtEveryTruncation) {
  const std::string whole = Encode(Sample());
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) {
    auto decoded = Decode(std::string_view(whole).substr(0, bytes));
    ASSERT_TRUE(absl::IsInvalidArgument(decoded.status())) << bytes << " " << decoded.status();
    EXPECT_NE(MessageOf(decoded.status()).find("record: field '"), std::string_view::npos);
  }
}

TEST(Codec, FailsWhenInputIsLeftOver) {
  auto decoded = Decode(Encode(Sample()) + "x");
  ASSERT_TRUE(absl::IsInvalidArgument(decoded.status()));
  EXPECT_NE(MessageOf(decoded.status()).find("1 bytes are left over"), std::string_view::npos);
}

TEST(Codec, BoundsACountByWhatIsLeft) {
  Encoder out;
  out.Int(uint32_t{3}).Raw(std::string(11, 'x'));
  const std::string bytes = out.Take();
  Decoder tight(bytes);
  EXPECT_EQ(tight.Count("items", 4), 0U);
  EXPECT_FALSE(tight.ok());
  Decoder fits(bytes);
  EXPECT_EQ(fits.Count("items", 3), 3U);
  EXPECT_TRUE(fits.ok());
  Encoder huge;
  huge.Int(std::numeric_limits<uint32_t>::max());
  const std::string only_count = huge.Take();
  Decoder empty(only_count);
  EXPECT_EQ(empty.Count("items", 1), 0U);
  EXPECT_FALSE(empty.ok());
}

TEST(Codec, KeepsTheFirstErrorAndGivesZeroesAfterIt) {
  Encoder out;
  out.String("four").Int(uint64_t{9});
  const std::string bytes = out.Take();
  Decoder in(bytes);
  EXPECT_EQ(in.String("name", 3), "");
  EXPECT_EQ(in.Int<uint64_t>("next"), 0U);
  EXPECT_TRUE(in.Id<ServerTag>("id").IsZero());
  EXPECT_EQ(in.Count("items", 1), 0U);
  in.Fail("late", "is bad");
  EXPECT_EQ(MessageOf(in.Finish("message")),
            "message: field 'name' at byte 4 is longer than its limit");
}

TEST(Codec, TakesNoTruthValueButZeroAndOne) {
  Decoder in(std::string_view("\x01\x00\x02", 3));
  EXPECT_TRUE(in.Int<bool>("a"));
  EXPECT_FALSE(in.Int<bool>("b"));
  EXPECT_TRUE(in.ok());
  EXPECT_FALSE(in.Int<bool>("c"));
  EXPECT_TRUE(absl::IsInvalidArgument(in.Finish("flags")));
}

}  // namespace
}  // namespace gemel
