// SPDX-License-Identifier: Apache-2.0
//
// One input of the archive fuzzers: the first byte picks what the rest is read as: a layout table,
// a safetensors file, a record, an address, XML.
//
// Thread safety: pure. An input that breaks an invariant ends the process.
#pragma once

#include <string>
#include <vector>

#include "client/archive/export_record.h"
#include "client/archive/layout.h"
#include "client/archive/pieces.h"
#include "client/archive/s3_location.h"
#include "client/archive/s3_xml.h"
#include "client/archive/safetensors.h"
#include "common/check.h"
#include "tests/fuzz/inputs.h"

namespace gemel {

class ArchiveTarget {
 public:
  // True when the input was accepted.
  static bool Run(ByteSpan input) {
    Choices choices(input);
    const uint8_t pick = choices.Byte();
    const std::string bytes = choices.Rest();
    switch (pick % kKinds) {
      case 0:
        return Layout(bytes);
      case 1:
        return Safetensors(bytes);
      case 2:
        return Record(bytes);
      case 3:
        return Latest(bytes);
      case 4:
        return Location(bytes);
      default:
        return Xml(bytes);
    }
  }

  static std::vector<std::string> Seeds() {
    archive::ShardLayout layout;
    layout.entries = {{"values/rank", archive::Dtype::kNone, {}, 0, 3},
                      {"model/w", archive::Dtype::kFloat32, {{4, 2, 2}, {3, 0, 3}}, 0, 24}};
    GEMEL_CHECK(archive::PlaceEntries(&layout).ok());
    archive::safetensors::Header header;
    header.tensors = {{"b", archive::Dtype::kBfloat16, {2, 3}},
                      {"c", archive::Dtype::kComplex64, {1}}};
    GEMEL_CHECK(archive::safetensors::Place(&header).ok());
    archive::ExportRecord record;
    record.snapshot = {
        std::string(32, 'c'), "gpt", "7", 1, 2, 12, {{std::string(32, 'a'), 4096, 192}}};
    record.files = {{"model.safetensors", 1000, {1, 2}, "model/"}};
    const archive::Latest latest{"gpt", {{"12-7", "c", "7", 12, 1000, {1, 2}}}};
    return {Seed(0, archive::EncodeLayout(layout)),
            Seed(1, archive::safetensors::EncodeHeader(header) + std::string(20, 'x')),
            Seed(2, archive::EncodeRecord(record, archive::RecordKind::kComplete)),
            Seed(3, archive::EncodeLatest(latest)),
            Seed(4, "s3://bucket/a/b?endpoint=http://127.0.0.1:80&region=r&style=path"),
            Seed(5, "<L><Contents a=\"b\"><Key>x&amp;&#x41;</Key></Contents><Size>1</Size></L>")};
  }

 private:
  static constexpr uint8_t kKinds = 6;

  static std::string Seed(char kind, const std::string& bytes) { return kind + bytes; }

  // Canonical; and every piece of it can be counted.
  static bool Layout(const std::string& bytes) {
    const auto layout = archive::DecodeLayout(AsBytes(bytes));
    if (!layout.ok()) {
      GEMEL_CHECK(layout.status().message().find("layout") != absl::string_view::npos);
      return false;
    }
    GEMEL_CHECK(archive::EncodeLayout(*layout) == bytes);
    for (const archive::LayoutEntry& entry : layout->entries) {
      const auto elements = archive::TensorElements(entry.dims);
      if (entry.is_tensor() && entry.data_bytes > 0 && elements.has_value()) {
        const uint64_t count = archive::BoxElements(entry.dims);
        GEMEL_CHECK_EQ(archive::ElementsBefore(entry.dims, *elements), count);
        GEMEL_CHECK_EQ(archive::ElementsBefore(entry.dims, 0), 0U);
      }
    }
    return true;
  }

  // What is accepted lies within the file, without holes, and is read again from its own encoding.
  static bool Safetensors(const std::string& bytes) {
    const auto length = archive::safetensors::DecodeLength(AsBytes(bytes), bytes.size());
    if (!length.ok()) {
      return false;
    }
    const std::string_view json = std::string_view(bytes).substr(8, *length);
    auto header = archive::safetensors::DecodeHeader(json, bytes.size());
    if (!header.ok()) {
      return false;
    }
    GEMEL_CHECK_EQ(header->file_bytes(), bytes.size());
    uint64_t end = 0;
    for (const archive::safetensors::Tensor& tensor : header->tensors) {
      GEMEL_CHECK_EQ(tensor.begin, end);
      end = tensor.end;
    }
    GEMEL_CHECK(archive::safetensors::Place(&*header).ok());
    const std::string again = archive::safetensors::EncodeHeader(*header);
    const auto back =
        archive::safetensors::DecodeHeader(std::string_view(again).substr(8), header->file_bytes());
    GEMEL_CHECK(back.ok()) << back.status();
    GEMEL_CHECK_EQ(back->data_bytes(), header->data_bytes());
    return true;
  }

  static bool Record(const std::string& bytes) {
    const auto record = archive::DecodeRecord(bytes, archive::RecordKind::kComplete);
    if (record.ok()) {
      const std::string again = archive::EncodeRecord(*record, archive::RecordKind::kComplete);
      GEMEL_CHECK(*archive::DecodeRecord(again, archive::RecordKind::kComplete) == *record);
    }
    return record.ok();
  }

  static bool Latest(const std::string& bytes) {
    const auto latest = archive::DecodeLatest(bytes);
    if (latest.ok()) {
      GEMEL_CHECK(*archive::DecodeLatest(archive::EncodeLatest(*latest)) == *latest);
    }
    return latest.ok();
  }

  // Nothing of an address becomes more of a URL than its place allows.
  static bool Location(const std::string& text) {
    const auto location = archive::ParseS3Url(text, {});
    if (!location.ok()) {
      return false;
    }
    const std::string url = location->Url(text, {{text, text}});
    GEMEL_CHECK(url.starts_with("https://") || url.starts_with("http://")) << url;
    GEMEL_CHECK(url.find_first_of(" \r\n#@") == std::string::npos) << url;
    return true;
  }

  static bool Xml(const std::string& text) {
    size_t bytes = 0;
    for (const std::string_view element : archive::XmlElements(text, "Contents")) {
      bytes += element.size();
      archive::XmlText(element, "Key");
    }
    GEMEL_CHECK_LE(bytes, text.size());
    GEMEL_CHECK(archive::XmlText("<K>" + archive::XmlEscape(text) + "</K>", "K") == text);
    return !archive::XmlText(text, "Size").empty();
  }
};

}  // namespace gemel
