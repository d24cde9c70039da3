// SPDX-License-Identifier: Apache-2.0
#include "server/slab_directory.h"

#include <cstring>
#include <utility>

#include "common/check.h"
#include "common/codec.h"
#include "common/crc32c.h"
#include "common/errors.h"
#include "common/fields.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

constexpr size_t kCrcBytes = 4;

// `content` with its checksum, in the last four bytes of a record of `bytes`.
std::string Record(std::string content, size_t bytes) {
  GEMEL_CHECK_LE(content.size(), bytes - kCrcBytes);
  content.resize(bytes - kCrcBytes, '\0');
  Encoder crc;
  crc.Int(Crc32c(AsBytes(content)));
  return content + crc.Take();
}

// The record's bytes before its checksum.
absl::StatusOr<std::string_view> CheckedRecord(std::string_view raw, size_t bytes,
                                               std::string_view what) {
  if (raw.size() != bytes) {
    return error::InvalidArgument("{} has {} bytes where {} belong", what, raw.size(), bytes);
  }
  const std::string_view content = raw.substr(0, bytes - kCrcBytes);
  Decoder decoder(raw.substr(bytes - kCrcBytes));
  if (decoder.Int<uint32_t>("crc32c") != Crc32c(AsBytes(content))) {
    return error::InvalidArgument("{} fails its checksum", what);
  }
  return content;
}

absl::Status CheckZero(std::string_view rest, std::string_view what) {
  for (const char c : rest) {
    if (c != '\0') {
      return error::InvalidArgument("{} has bytes after its last field", what);
    }
  }
  return absl::OkStatus();
}

// Reads magic and version; the first error sticks to the decoder.
void ReadKind(Decoder* decoder, uint32_t magic) {
  if (decoder->Int<uint32_t>("magic") != magic) {
    decoder->Fail("magic", "is not that of a slab directory");
  }
  if (decoder->Int<uint8_t>("version") != kSlabDirectoryVersion) {
    decoder->Fail("version", "is not 2");
  }
}

// What is left of the record must be padding.
absl::Status FinishPadded(Decoder* decoder, std::string_view what) {
  const std::string_view padding = decoder->Raw(decoder->remaining(), "padding");
  GEMEL_RETURN_IF_ERROR(decoder->Finish(what));
  return CheckZero(padding, what);
}

}  // namespace

std::string EncodeSlabDirectoryHeader(const SlabDirectoryHeader& header) {
  Encoder out;
  out.Int(kSlabDirectoryMagic).Int(kSlabDirectoryVersion);
  out.Id(header.server).Id(header.incarnation);
  out.Int(header.life)
      .Int(header.slab_bytes)
      .Int(header.slabs)
      .Int(static_cast<uint32_t>(kSlabEntryBytes));
  return Record(out.Take(), kSlabDirectoryHeaderBytes);
}

absl::StatusOr<SlabDirectoryHeader> DecodeSlabDirectoryHeader(std::string_view raw) {
  GEMEL_ASSIGN_OR_RETURN(
      const std::string_view content,
      CheckedRecord(raw, kSlabDirectoryHeaderBytes, "the header of the slab directory"));
  Decoder in(content);
  ReadKind(&in, kSlabDirectoryMagic);
  SlabDirectoryHeader header;
  header.server = in.Id<ServerTag>("server");
  header.incarnation = in.Id<IncarnationTag>("incarnation");
  header.life = in.Int<uint64_t>("life");
  header.slab_bytes = in.Int<uint64_t>("slab_bytes");
  header.slabs = in.Int<uint32_t>("slabs");
  if (in.Int<uint32_t>("entry_bytes") != kSlabEntryBytes) {
    in.Fail("entry_bytes", "is not 512");
  }
  GEMEL_RETURN_IF_ERROR(FinishPadded(&in, "the header of the slab directory"));
  return header;
}

std::string EncodeSlabEntry(const SlabEntry& entry) {
  Encoder out;
  FieldEncoder field(&out);
  out.Int(kSlabEntryMagic).Int(kSlabDirectoryVersion);
  out.Int(entry.slab).Int(entry.state).Int(entry.slab_class);
  out.Int(static_cast<uint8_t>(entry.sealed ? 1 : 0));
  out.Int(entry.generation).Int(entry.holder);
  field("shard", entry.shard);
  out.Id(entry.token);
  out.Int(entry.offset).Int(entry.length).Int(entry.object_bytes).Int(entry.layout_bytes);
  field("root", entry.root);
  return Record(out.Take(), kSlabEntryBytes);
}

absl::StatusOr<SlabEntry> DecodeSlabEntry(std::string_view raw) {
  GEMEL_ASSIGN_OR_RETURN(const std::string_view content,
                         CheckedRecord(raw, kSlabEntryBytes, "a slab's entry"));
  Decoder in(content);
  FieldDecoder field(&in);
  ReadKind(&in, kSlabEntryMagic);
  SlabEntry entry;
  entry.slab = in.Int<uint32_t>("slab");
  field("state", entry.state);
  field("class", entry.slab_class);
  field("sealed", entry.sealed);
  entry.generation = in.Int<uint64_t>("generation");
  entry.holder = in.Int<uint64_t>("holder");
  field("shard", entry.shard);
  entry.token = in.Id<TokenTag>("token");
  entry.offset = in.Int<uint64_t>("offset");
  entry.length = in.Int<uint64_t>("length");
  entry.object_bytes = in.Int<uint64_t>("object_bytes");
  entry.layout_bytes = in.Int<uint64_t>("layout_bytes");
  field("root", entry.root);
  if (entry.offset > entry.object_bytes || entry.length > entry.object_bytes - entry.offset) {
    in.Fail("length", "reaches beyond the object");
  }
  GEMEL_RETURN_IF_ERROR(FinishPadded(&in, "a slab's entry"));
  return entry;
}

absl::StatusOr<SlabDirectoryContent> ReadSlabDirectory(ByteSpan memory) {
  const std::string_view text = AsText(memory);
  SlabDirectoryContent content;
  GEMEL_ASSIGN_OR_RETURN(content.header,
                         DecodeSlabDirectoryHeader(text.substr(0, kSlabDirectoryHeaderBytes)));
  const uint64_t room = (text.size() - kSlabDirectoryHeaderBytes) / kSlabEntryBytes;
  if (content.header.slabs > room) {
    return error::InvalidArgument("the slab directory names {} slabs and has room for {}",
                                  content.header.slabs, room);
  }
  for (uint32_t slab = 0; slab < content.header.slabs; ++slab) {
    const size_t at = kSlabDirectoryHeaderBytes + size_t{slab} * kSlabEntryBytes;
    absl::StatusOr<SlabEntry> entry = DecodeSlabEntry(text.substr(at, kSlabEntryBytes));
    const bool sound =
        entry.ok() && entry->slab == slab && entry->length <= content.header.slab_bytes;
    if (sound) {
      content.entries.push_back(*std::move(entry));
    } else {
      content.torn.push_back(slab);
    }
  }
  return content;
}

absl::StatusOr<std::unique_ptr<SlabDirectory>> SlabDirectory::Create(
    Host* host, const SlabDirectoryHeader& header) {
  GEMEL_CHECK_GT(header.slabs, 0U);
  const uint64_t bytes = kSlabDirectoryHeaderBytes + uint64_t{header.slabs} * kSlabEntryBytes;
  GEMEL_ASSIGN_OR_RETURN(std::shared_ptr<SharedHandle> memory,
                         host->CreateMemory("gemel-slab-directory", bytes));
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<Mapping> mapping,
                         host->Map(memory, bytes, Access::kReadWrite, false));
  const std::string encoded = EncodeSlabDirectoryHeader(header);
  std::memcpy(mapping->bytes().data(), encoded.data(), encoded.size());
  std::unique_ptr<SlabDirectory> directory(
      new SlabDirectory(std::move(memory), std::move(mapping), header.slabs));
  for (uint32_t slab = 0; slab < header.slabs; ++slab) {
    SlabEntry entry;
    entry.slab = slab;
    directory->Write(entry);
  }
  return directory;
}

void SlabDirectory::Write(const SlabEntry& entry) {
  GEMEL_CHECK_LT(entry.slab, slabs_);
  const std::string encoded = EncodeSlabEntry(entry);
  GEMEL_CHECK_EQ(encoded.size(), kSlabEntryBytes);
  const size_t at = kSlabDirectoryHeaderBytes + size_t{entry.slab} * kSlabEntryBytes;
  GEMEL_CHECK_LE(at + encoded.size(), mapping_->bytes().size());
  std::memcpy(mapping_->bytes().data() + at, encoded.data(), encoded.size());
}

}  // namespace gemel
