// SPDX-License-Identifier: Apache-2.0
//
// Layout table, safetensors header, boxes, records, addresses, XML: what is sound is read as it was
// written, what is not is refused by name.
#include <gtest/gtest.h>

#include <functional>

#include "client/archive/body_digest.h"
#include "client/archive/export_record.h"
#include "client/archive/json_text.h"
#include "client/archive/layout.h"
#include "client/archive/pieces.h"
#include "client/archive/s3_location.h"
#include "client/archive/s3_xml.h"
#include "client/archive/safetensors.h"
#include "common/codec.h"
#include "tests/unit/archive_fakes.h"

namespace gemel::archive {
namespace {

std::string MessageFor(const absl::Status& status) {
  return status.code() == absl::StatusCode::kInvalidArgument ||
                 status.code() == absl::StatusCode::kDataLoss
             ? std::string(status.message())
             : "other: " + ToText(status);
}

#define EXPECT_NAMES(status, word) \
  EXPECT_NE(MessageFor(status).find(word), std::string::npos) << MessageFor(status)

ShardLayout Sound() {
  ShardLayout layout;
  layout.rank = 1;
  layout.world_size = 2;
  layout.entries = {Bytes("values/rank", 3),
                    Piece("model/w", Dtype::kFloat32, {{4, 2, 2}, {3, 0, 3}})};
  GEMEL_CHECK(PlaceEntries(&layout).ok());
  return layout;
}

TEST(ArchiveLayout, WhatEncodesDecodesToTheSame) {
  const ShardLayout layout = Sound();
  const std::string table = EncodeLayout(layout);
  EXPECT_EQ(table.size(), layout.layout_bytes);
  const auto back = DecodeLayout(AsBytes(table));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, layout);
}

TEST(ArchiveLayout, RefusesEveryCutAndNamesTheFieldThatIsWrong) {
  const std::string table = EncodeLayout(Sound());
  for (size_t end = 0; end < table.size(); ++end) {
    EXPECT_NAMES(DecodeLayout(AsBytes(table.substr(0, end))).status(), "layout") << end;
  }
  const std::vector<std::tuple<size_t, std::string, std::string>> changes = {
      {0, "X", "magic"},
      {4, "\x02", "version"},
      {6, "\x01", "flags"},
      {8, "\x09", "rank"},
      {12, std::string(1, '\0'), "world_size"},
      {16, "\xff", "layout_bytes"},
      {27, "\x01", "shard_bytes"},
      {32, "\xff\xff\xff", "entry_count"},
      {36, "\x01", "reserved"},
      {66, "\x07", "kind"},
      {67, "\x01", "dtype"},
      {68, "\xff", "ndim"},
      {72, "\x01", "data_offset"}};
  for (const auto& [at, bytes, field] : changes) {
    std::string changed = table;
    changed.replace(at, bytes.size(), bytes);
    EXPECT_NAMES(DecodeLayout(AsBytes(changed)).status(), field);
  }
}

TEST(ArchiveLayout, RefusesSizesWhoseProductIsMoreThan64Bits) {
  ShardLayout layout;
  layout.entries = {Piece("t", Dtype::kInt8, {{2, 0, 2}, {2, 0, 2}})};
  ASSERT_TRUE(PlaceEntries(&layout).ok());
  std::string table = EncodeLayout(layout);
  const std::string dim =
      Encoder().Int(uint64_t{1} << 45).Int(uint64_t{0}).Int(uint64_t{1} << 45).Take();
  table.replace(64 + 24, 24, dim).replace(64 + 48, 24, dim);
  EXPECT_NAMES(DecodeLayout(AsBytes(table)).status(), "more than 64 bits");
}

TEST(ArchiveLayout, RefusesBoxesThatAreTwiceAndNamesThatAreNotUtf8) {
  ShardLayout layout;
  layout.entries = {Bytes("aa", 1), Bytes("ab", 1)};
  ASSERT_TRUE(PlaceEntries(&layout).ok());
  std::string table = EncodeLayout(layout);
  table.replace(table.find("ab"), 2, "aa");
  EXPECT_NAMES(DecodeLayout(AsBytes(table)).status(), "entries[1].name: 'aa' at () is there twice");
  table.replace(table.rfind("aa"), 2, "\xc0\x80");
  EXPECT_NAMES(DecodeLayout(AsBytes(table)).status(), "entries[1].name: not UTF-8");
}

TEST(ArchiveLayout, TellsUtf8FromWhatIsNot) {
  for (const std::string_view good :
       {"", "a", "l\xc3\xa4yer", "\xe2\x82\xac", "\xf0\x9f\x98\x80"}) {
    EXPECT_TRUE(IsUtf8(good)) << good;
  }
  for (const std::string_view bad : {"\x80", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80",
                                     "\xf4\x90\x80\x80", "\xff", "a\xe2\x82"}) {
    EXPECT_FALSE(IsUtf8(bad)) << HexOf(bad);
  }
}

safetensors::Header Placed() {
  safetensors::Header header;
  header.tensors = {{"small", Dtype::kInt8, {3}},
                    {"large", Dtype::kFloat64, {2, 2}},
                    {"odd", Dtype::kComplex128, {2}},
                    {"scalar", Dtype::kFloat32, {}}};
  header.metadata = {{"format", "pt"}};
  GEMEL_CHECK(safetensors::Place(&header).ok());
  return header;
}

TEST(ArchiveSafetensors, WhatEncodesDecodesToTheSameAndEveryTensorIsAligned) {
  const safetensors::Header header = Placed();
  const std::string text = safetensors::EncodeHeader(header);
  ASSERT_EQ(text.size(), header.data_begin);
  EXPECT_EQ(text.size() % 8, 0U);
  const auto length = safetensors::DecodeLength(AsBytes(text), header.file_bytes());
  ASSERT_TRUE(length.ok()) << length.status();
  const auto back =
      safetensors::DecodeHeader(std::string_view(text).substr(8), header.file_bytes());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->tensors, header.tensors);
  EXPECT_EQ(back->metadata, header.metadata);
  for (const safetensors::Tensor& tensor : back->tensors) {
    EXPECT_EQ((back->data_begin + tensor.begin) % std::min<uint64_t>(8, ItemBytes(tensor.dtype)),
              0U);
  }
}

TEST(ArchiveSafetensors, KeepsADtypeThatTheFormatLacksAsBytes) {
  const std::string text = safetensors::EncodeHeader(Placed());
  EXPECT_NE(text.find(R"("gemel.dtype.odd":"complex128")"), std::string::npos) << text;
  EXPECT_NE(text.find(R"("dtype":"U8","shape":[2,16])"), std::string::npos) << text;
}

TEST(ArchiveSafetensors, RefusesHostileHeaders) {
  const auto one = [](const std::string& fields) { return "{\"a\":{" + fields + "}}"; };
  const std::vector<std::pair<std::string, std::string>> hostile = {
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
       "begins at 2"},  // overlap
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}})",
       "begins at 5"},  // hole
      {one(R"("dtype":"U8","shape":[4],"data_offsets":[4,8])"), "begins at 4"},
      {one(R"("dtype":"U8","shape":[3],"data_offsets":[0,4])"), "by its shape"},
      {one(R"("dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0])"), "64 bits"},
      {one(R"("dtype":"U8","shape":[4],"data_offsets":[4,0])"), "data_offsets"},
      {one(R"("dtype":"U8","shape":[-4],"data_offsets":[0,4])"), "not a size"},
      {one(R"("dtype":"U8","shape":[4.0],"data_offsets":[0,4])"), "not a size"},
      {one(R"("dtype":"U8","shape":[4],"data_offsets":[0,18446744073709551615])"), "by its shape"},
      {one(R"("dtype":"X9","shape":[4],"data_offsets":[0,4])"), "dtype"},
      {one(R"("dtype":"U8","shape":[4],"data_offsets":[0,4],"more":1)"), "is not {dtype"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
       "'a' is there twice"},
      {one(R"("dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4])"),
       "'dtype' is there twice"},
      {one(R"("dtype":"U8","shape":[[4]],"data_offsets":[0,4])"), "levels"},
      {R"({"__metadata__":{"a":1}})", "__metadata__"},
      {R"({"__metadata__":{"gemel.dtype.a":"complex64"},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
       "__metadata__ says"},
      {"{", "not JSON"},
      {"", "not JSON"},
      {"[]", "not an object"},
      {"{} {}", "not JSON"},
      {std::string(100000, '['), "levels"},
      {"{\"\xff\":1}", "not JSON"},
      {"{}", "the file has 4"}};
  for (const auto& [json, word] : hostile) {
    EXPECT_NAMES(safetensors::DecodeHeader(json, 8 + json.size() + 4).status(), word)
        << json.substr(0, 200);
  }
  const std::string huge = Encoder().Int(uint64_t{1} << 62).Take();
  EXPECT_NAMES(safetensors::DecodeLength(AsBytes(huge), 100).status(), "a header of");
  EXPECT_NAMES(safetensors::DecodeLength(AsBytes(huge.substr(0, 7)), 7).status(), "no header");
}

std::vector<uint64_t> Elements(const Box& box, uint64_t first, uint64_t last) {
  std::vector<uint64_t> elements;
  ForEachRun(box, first, last, [&](const Run& run) {
    EXPECT_EQ(run.box, first + elements.size());
    for (uint64_t i = 0; i < run.count; ++i) {
      elements.push_back(run.tensor + i);
    }
  });
  return elements;
}

TEST(ArchivePieces, RunsAndCountsAgreeWithElementByElement) {
  const std::vector<Box> boxes = {{},
                                  {{1, 0, 1}},
                                  {{5, 1, 3}},
                                  {{4, 1, 2}, {6, 2, 3}},
                                  {{4, 0, 4}, {6, 0, 6}},
                                  {{3, 1, 1}, {4, 1, 2}, {5, 0, 5}},
                                  {{3, 0, 2}, {1, 0, 1}, {5, 4, 1}}};
  for (const Box& box : boxes) {
    const std::vector<uint64_t> all = Elements(box, 0, BoxElements(box));
    ASSERT_EQ(all.size(), BoxElements(box));
    EXPECT_TRUE(std::is_sorted(all.begin(), all.end()));
    for (uint64_t index = 0; index <= *TensorElements(box); ++index) {
      const auto before = std::lower_bound(all.begin(), all.end(), index) - all.begin();
      EXPECT_EQ(ElementsBefore(box, index), static_cast<uint64_t>(before)) << index;
    }
    for (uint64_t first = 0; first < all.size(); ++first) {
      const std::vector<uint64_t> rest = Elements(box, first, all.size());
      EXPECT_TRUE(
          std::equal(rest.begin(), rest.end(), all.begin() + static_cast<ptrdiff_t>(first)));
    }
  }
}

TEST(ArchivePieces, CoverIsExactOrNamed) {
  const Box left = {{4, 0, 4}, {6, 0, 2}};
  const Box right_top = {{4, 0, 1}, {6, 2, 4}};
  const Box right_rest = {{4, 1, 3}, {6, 2, 4}};
  EXPECT_TRUE(CheckCover("w", std::vector<Box>{right_rest, left, right_top}).ok());
  EXPECT_NAMES(CheckCover("w", std::vector<Box>{left, right_top}),
               "'w': the saved pieces cover 12 of 24");
  EXPECT_NAMES(
      CheckCover("w", std::vector<Box>{left, right_top, right_rest, {{4, 0, 4}, {6, 1, 1}}}),
      "'w': the pieces");
  // As many elements as the tensor has, one of them twice and one missing.
  EXPECT_NAMES(CheckCover("w", std::vector<Box>{left, right_rest, {{4, 0, 1}, {6, 1, 4}}}),
               "overlap");
  // A pinwheel: no plane divides it.
  const std::vector<Box> pinwheel = {{{3, 0, 1}, {3, 0, 2}},
                                     {{3, 0, 2}, {3, 2, 1}},
                                     {{3, 2, 1}, {3, 1, 2}},
                                     {{3, 1, 2}, {3, 0, 1}},
                                     {{3, 1, 1}, {3, 1, 1}}};
  EXPECT_TRUE(CheckCover("w", pinwheel).ok());
  EXPECT_TRUE(CheckCover("scalar", std::vector<Box>{{}}).ok());
}

ExportRecord Record() {
  ExportRecord record;
  record.snapshot = TwoRanks().facts();
  record.files = {{"model.safetensors", 10, {1, 2}, "model/"},
                  {"values.safetensors", 20, {3, 4}, ""}};
  return record;
}

TEST(ArchiveRecord, IsReadAsItWasWrittenAndRefusedByName) {
  const std::string text = EncodeRecord(Record(), RecordKind::kComplete);
  const auto back = DecodeRecord(text, RecordKind::kComplete);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, Record());
  EXPECT_NAMES(DecodeRecord(text, RecordKind::kPartial).status(), "gemel.partial.json.format");
  const std::vector<std::array<std::string, 3>> changes = {
      {"\"version\": 1", "\"version\": 2", "version: 2"},
      {"\"sequence\": 12", "\"sequence\": \"12\"", "sequence is not a number"},
      {"\"world_size\": 2", "\"world_size\": 3", "world_size"},
      {"\"model.safetensors\"", "\"../model\"", "files[0].name"},
      {"\"values.safetensors\"", "\"model.safetensors\"", "files[1].name is there twice"},
      {"aaaa", "zzzz", "root"},
      {"\"job\": \"gpt\"", "\"job\": 1", "job is not"},
      {"\"generation\": 1", "\"generation\": -1", "epoch.generation"},
      {"\"bytes\": 10", "\"bytes\": 10, \"bytes\": 11", "'bytes' is there twice"}};
  for (const auto& [from, to, word] : changes) {
    std::string changed = text;
    ASSERT_NE(changed.find(from), std::string::npos) << from;
    changed.replace(changed.find(from), from.size(), to);
    EXPECT_NAMES(DecodeRecord(changed, RecordKind::kComplete).status(), word) << to;
  }
}

TEST(ArchiveRecord, LatestNamesItsNewest) {
  Latest latest{"gpt", {{"01-6", "c", "6", 1, 10, {1, 2}}, {"02-7", "c", "7", 2, 20, {3, 4}}}};
  const std::string text = EncodeLatest(latest);
  EXPECT_NE(text.find("\"latest\": \"02-7\""), std::string::npos);
  const auto back = DecodeLatest(text);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, latest);
  std::string changed = text;
  changed.replace(changed.find("02-7"), 4, "01-6");
  EXPECT_NAMES(DecodeLatest(changed).status(), "latest.json.latest");
}

TEST(ArchiveS3Location, IsReadFromAnAddress) {
  const auto aws = ParseS3Url("s3://my-bucket/a/b/", {.region = "eu-west-1"});
  ASSERT_TRUE(aws.ok()) << aws.status();
  EXPECT_EQ(aws->Url("a/b/x y+z", {{"uploads", ""}, {"partNumber", "1"}}),
            "https://my-bucket.s3.eu-west-1.amazonaws.com/a/b/x%20y%2Bz?partNumber=1&uploads=");
  EXPECT_EQ(aws->prefix, "a/b");
  const auto own = ParseS3Url("s3://bucket?endpoint=http://127.0.0.1:9/&region=r1", {});
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_EQ(own->Url("k", {}), "http://127.0.0.1:9/bucket/k");
  EXPECT_EQ(ParseS3Url("s3://bucket/p?style=host", {.endpoint = "https://h"})->Url("k", {}),
            "https://bucket.h/k");
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"s3://", "bucket"},
      {"s3://b", "bucket"},
      {"http://bucket", "s3://"},
      {"s3://bucket?endpoint=ftp://x", "ftp"},
      {"s3://bucket?colour=red", "colour=red"},
      {"s3://bucket?style=other", "style"},
      {"s3://bucket/a//b", "empty part"},
      {"s3://bucket?endpoint=https://u@h", "no host"},
      {"s3://bucket?region=a/b", "region"}};
  for (const auto& [url, word] : bad) {
    EXPECT_NAMES(ParseS3Url(url, {}).status(), word);
  }
}

TEST(ArchiveS3Location, HttpBeyondThisMachineNeedsAWord) {
  const auto refused = ParseS3Url("s3://bucket?endpoint=http://192.0.2.1", {});
  EXPECT_TRUE(absl::IsPermissionDenied(refused.status())) << refused.status();
  EXPECT_NE(refused.status().message().find("--insecure"), std::string::npos);
  EXPECT_TRUE(ParseS3Url("s3://bucket?endpoint=http://192.0.2.1", {.insecure = true}).ok());
  EXPECT_TRUE(ParseS3Url("s3://bucket?endpoint=http://localhost:1", {}).ok());
  EXPECT_FALSE(ParseS3Url("s3://bucket?endpoint=http://localhost.example.org", {}).ok());
}

TEST(ArchiveS3Xml, GivesTextsAndNothingForWhatIsNotThere) {
  const std::string xml =
      "<R xmlns=\"x\"><Contents><Key>a&amp;b&#x3c;&#60;&unknown;&</Key><Size>7</Size></Contents>"
      "<ContentsMore/><Contents><Key>c</Key></Contents><Contents><Key>cut";
  ASSERT_EQ(XmlElements(xml, "Contents").size(), 2U);
  EXPECT_EQ(XmlText(xml, "Key"), "a&b<<&unknown;&");
  EXPECT_EQ(XmlText(xml, "Size"), "7");
  EXPECT_EQ(XmlText(xml, "R"), "");
  EXPECT_EQ(XmlText("", "R"), "");
  EXPECT_EQ(XmlText("<A>" + XmlEscape("<&>\"'") + "</A>", "A"), "<&>\"'");
}

TEST(ArchiveBodyDigest, AreTheStandardOnes) {
  EXPECT_EQ(Sha256Hex(AsBytes("")),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Base64Of(Md5(AsBytes("abc"))), "kAFQmDzST7DWlj99KOF/cg==");
  EXPECT_EQ(HexOf(Md5(AsBytes(""))), "d41d8cd98f00b204e9800998ecf8427e");
}

}  // namespace
}  // namespace gemel::archive
