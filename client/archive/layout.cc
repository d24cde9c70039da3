// SPDX-License-Identifier: Apache-2.0
#include "client/archive/layout.h"

#include <algorithm>
#include <set>

#include "common/check.h"
#include "common/codec.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::archive {
namespace {

constexpr uint32_t kMagic = 0x4c4d4547;  // "GEML"
constexpr uint16_t kVersion = 1;
constexpr size_t kHeaderBytes = 64;
constexpr size_t kEntryBytes = 24;
constexpr size_t kDimBytes = 24;
constexpr uint8_t kKindTensor = 0;
constexpr uint8_t kKindBytes = 1;

struct DtypeFacts {
  std::string_view name;
  uint64_t item_bytes;
};

constexpr std::array<DtypeFacts, kDtypeMax + 1> kDtypes = {{
    {"", 0},
    {"float32", 4},
    {"float64", 8},
    {"float16", 2},
    {"bfloat16", 2},
    {"int8", 1},
    {"int16", 2},
    {"int32", 4},
    {"int64", 8},
    {"uint8", 1},
    {"uint16", 2},
    {"uint32", 4},
    {"uint64", 8},
    {"bool", 1},
    {"complex64", 8},
    {"complex128", 16},
    {"float8_e4m3fn", 1},
    {"float8_e5m2", 1},
    {"float8_e4m3fnuz", 1},
    {"float8_e5m2fnuz", 1},
    {"float8_e8m0fnu", 1},
    {"complex32", 4},
}};
static_assert(kDtypes[static_cast<size_t>(Dtype::kComplex32)].item_bytes == 4);
static_assert(kHeaderBytes % kLayoutAlignBytes == 0);
static_assert(kTensorNameBytesMax <= 0xffff && kTensorDimsMax <= 0xff, "they fit their fields");

bool IsZero(std::string_view bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](char c) { return c == 0; });
}

uint64_t TableBytes(const LayoutEntry& entry) {
  return kEntryBytes + kDimBytes * entry.dims.size() + entry.name.size();
}

std::vector<uint64_t> OffsetsOf(const LayoutEntry& entry) {
  std::vector<uint64_t> offsets;
  for (const Dim& dim : entry.dims) {
    offsets.push_back(dim.offset);
  }
  return offsets;
}

absl::Status CheckEntry(const LayoutEntry& entry, const std::string& where) {
  if (entry.name.empty() || entry.name.size() > kTensorNameBytesMax) {
    return error::InvalidArgument("{}.name: has {} bytes", where, entry.name.size());
  }
  if (!IsUtf8(entry.name)) {
    return error::InvalidArgument("{}.name: not UTF-8", where);
  }
  if (!entry.is_tensor()) {
    return entry.dims.empty() ? absl::OkStatus()
                              : error::InvalidArgument("{}.ndim: bytes have no dimensions", where);
  }
  if (entry.dims.size() > kTensorDimsMax) {
    return error::InvalidArgument("{}.ndim: {} > {}", where, entry.dims.size(), kTensorDimsMax);
  }
  std::vector<uint64_t> sizes;
  for (size_t i = 0; i < entry.dims.size(); ++i) {
    const Dim& dim = entry.dims[i];
    if (dim.full > kDimMax || dim.offset > dim.full || dim.size > dim.full - dim.offset) {
      return error::InvalidArgument("{}.dims[{}]: {} elements from {} of {} of '{}'", where, i,
                                    dim.size, dim.offset, dim.full, entry.name);
    }
    sizes.push_back(dim.size);
  }
  sizes.push_back(ItemBytes(entry.dtype));
  const std::optional<uint64_t> bytes = Product(sizes);
  if (!bytes.has_value() || *bytes != entry.data_bytes) {
    return error::InvalidArgument("{}.data_bytes: {}, sizes of '{}' say {}", where,
                                  entry.data_bytes, entry.name,
                                  bytes.has_value() ? fmt::to_string(*bytes) : "more than 64 bits");
  }
  return absl::OkStatus();
}

absl::Status CheckHead(const ShardLayout& layout) {
  if (layout.world_size == 0 || layout.world_size > kWorldSizeMax) {
    return error::InvalidArgument("layout.world_size: {}", layout.world_size);
  }
  if (layout.rank >= layout.world_size) {
    return error::InvalidArgument("layout.rank: {} of a world of {}", layout.rank,
                                  layout.world_size);
  }
  if (layout.entries.size() > kLayoutEntriesMax) {
    return error::InvalidArgument("layout.entry_count: {}", layout.entries.size());
  }
  if (layout.layout_bytes > layout.shard_bytes || layout.shard_bytes > kShardBytesMax) {
    return error::InvalidArgument("layout.shard_bytes: {}", layout.shard_bytes);
  }
  return absl::OkStatus();
}

absl::Status CheckLayout(const ShardLayout& layout) {
  GEMEL_RETURN_IF_ERROR(CheckHead(layout));
  uint64_t end = layout.layout_bytes;
  std::set<std::pair<std::string_view, std::vector<uint64_t>>> boxes;
  for (size_t i = 0; i < layout.entries.size(); ++i) {
    const LayoutEntry& entry = layout.entries[i];
    const std::string where = fmt::format("layout.entries[{}]", i);
    GEMEL_RETURN_IF_ERROR(CheckEntry(entry, where));
    if (entry.data_offset != AlignUp(end, kLayoutAlignBytes)) {
      return error::InvalidArgument("{}.data_offset: {}, the entry before it ends at {}", where,
                                    entry.data_offset, end);
    }
    if (entry.data_offset > layout.shard_bytes ||
        entry.data_bytes > layout.shard_bytes - entry.data_offset) {
      return error::InvalidArgument("{}.data_bytes: {} from {}, the shard ends at {}", where,
                                    entry.data_bytes, entry.data_offset, layout.shard_bytes);
    }
    end = entry.data_offset + entry.data_bytes;
    if (!boxes.emplace(entry.name, OffsetsOf(entry)).second) {
      return error::InvalidArgument("{}.name: '{}' at ({}) is there twice", where, entry.name,
                                    fmt::join(OffsetsOf(entry), ", "));
    }
  }
  if (end != layout.shard_bytes) {
    return error::InvalidArgument("layout.shard_bytes: {}, data ends at {}", layout.shard_bytes,
                                  end);
  }
  return absl::OkStatus();
}

absl::StatusOr<LayoutEntry> DecodeEntry(Decoder* decoder, const std::string& where) {
  LayoutEntry entry;
  const auto name_bytes = decoder->Int<uint16_t>("name_len");
  const auto kind = decoder->Int<uint8_t>("kind");
  const auto code = decoder->Int<uint8_t>("dtype");
  const auto ndim = decoder->Int<uint8_t>("ndim");
  const std::string_view zeros = decoder->Raw(3, "reserved");
  entry.data_offset = decoder->Int<uint64_t>("data_offset");
  entry.data_bytes = decoder->Int<uint64_t>("data_bytes");
  if (!decoder->ok()) {
    return error::InvalidArgument("{}: table ends inside it", where);
  }
  if (!IsZero(zeros)) {
    return error::InvalidArgument("{}.reserved: not zero", where);
  }
  if (kind != kKindTensor && kind != kKindBytes) {
    return error::InvalidArgument("{}.kind: {} is unknown", where, kind);
  }
  if (kind == kKindTensor ? code == 0 || code > kDtypeMax : code != 0) {
    return error::InvalidArgument("{}.dtype: {} is unknown", where, code);
  }
  if (ndim > kTensorDimsMax) {
    return error::InvalidArgument("{}.ndim: {} > {}", where, ndim, kTensorDimsMax);
  }
  entry.dtype = static_cast<Dtype>(code);
  for (uint8_t i = 0; i < ndim; ++i) {
    Dim dim;
    dim.full = decoder->Int<uint64_t>("full");
    dim.offset = decoder->Int<uint64_t>("offset");
    dim.size = decoder->Int<uint64_t>("size");
    entry.dims.push_back(dim);
  }
  entry.name = std::string(decoder->Raw(name_bytes, "name"));
  if (!decoder->ok()) {
    return error::InvalidArgument("{}: table ends inside its dimensions or name", where);
  }
  return entry;
}

// The fields before the entries; the number of entries.
absl::StatusOr<uint32_t> DecodeHead(Decoder* decoder, ByteSpan table, ShardLayout* layout) {
  if (table.size() < kHeaderBytes) {
    return error::InvalidArgument("layout: header needs {} bytes, got {}", kHeaderBytes,
                                  table.size());
  }
  const auto magic = decoder->Int<uint32_t>("magic");
  const auto version = decoder->Int<uint16_t>("version");
  const auto flags = decoder->Int<uint16_t>("flags");
  layout->rank = decoder->Int<uint32_t>("rank");
  layout->world_size = decoder->Int<uint32_t>("world_size");
  layout->layout_bytes = decoder->Int<uint64_t>("layout_bytes");
  layout->shard_bytes = decoder->Int<uint64_t>("shard_bytes");
  const auto count = decoder->Int<uint32_t>("entry_count");
  const bool zeros = decoder->Int<uint32_t>("zero") == 0;
  const std::string_view hash = decoder->Raw(layout->layout_hash.size(), "layout_hash");
  std::copy(hash.begin(), hash.end(), layout->layout_hash.begin());
  const bool more_zeros = decoder->Int<uint64_t>("zero") == 0;
  GEMEL_CHECK(decoder->ok());
  if (magic != kMagic) {
    return error::InvalidArgument("layout.magic: {:#010x} is not 'GEML'", magic);
  }
  if (version != kVersion) {
    return error::InvalidArgument("layout.version: {}, this reader knows {}", version, kVersion);
  }
  if (flags != 0) {
    return error::InvalidArgument("layout.flags: {:#x} has unknown bits", flags);
  }
  if (!zeros || !more_zeros) {
    return error::InvalidArgument("layout.reserved: not zero");
  }
  if (layout->layout_bytes != table.size()) {
    return error::InvalidArgument("layout.layout_bytes: {} named, {} given", layout->layout_bytes,
                                  table.size());
  }
  if (count > kLayoutEntriesMax || count > (table.size() - kHeaderBytes) / kEntryBytes) {
    return error::InvalidArgument("layout.entry_count: {} do not fit {} bytes", count,
                                  table.size());
  }
  return count;
}

}  // namespace

uint64_t ItemBytes(Dtype dtype) {
  GEMEL_CHECK_LE(static_cast<int>(dtype), kDtypeMax);
  return kDtypes[static_cast<size_t>(dtype)].item_bytes;
}

std::string_view DtypeName(Dtype dtype) {
  GEMEL_CHECK_LE(static_cast<int>(dtype), kDtypeMax);
  return kDtypes[static_cast<size_t>(dtype)].name;
}

std::optional<Dtype> DtypeNamed(std::string_view name) {
  for (uint8_t code = 1; code <= kDtypeMax; ++code) {
    if (kDtypes[code].name == name) {
      return static_cast<Dtype>(code);
    }
  }
  return std::nullopt;
}

absl::StatusOr<ShardLayout> DecodeLayout(ByteSpan table) {
  ShardLayout layout;
  Decoder decoder(table);
  GEMEL_ASSIGN_OR_RETURN(const uint32_t count, DecodeHead(&decoder, table, &layout));
  uint64_t end = kHeaderBytes;
  for (uint32_t i = 0; i < count; ++i) {
    GEMEL_ASSIGN_OR_RETURN(LayoutEntry entry,
                           DecodeEntry(&decoder, fmt::format("layout.entries[{}]", i)));
    end += TableBytes(entry);
    layout.entries.push_back(std::move(entry));
  }
  if (AlignUp(end, kLayoutAlignBytes) != layout.layout_bytes) {
    return error::InvalidArgument("layout.layout_bytes: {}, table ends at {}", layout.layout_bytes,
                                  end);
  }
  if (!IsZero(decoder.Raw(layout.layout_bytes - end, "padding"))) {
    return error::InvalidArgument("layout.padding: not zero");
  }
  GEMEL_RETURN_IF_ERROR(CheckLayout(layout));
  return layout;
}

std::string EncodeLayout(const ShardLayout& layout) {
  const absl::Status sound = CheckLayout(layout);
  GEMEL_CHECK(sound.ok()) << MessageOf(sound);
  Encoder encoder;
  encoder.Int(kMagic).Int(kVersion).Int(uint16_t{0}).Int(layout.rank).Int(layout.world_size);
  encoder.Int(layout.layout_bytes).Int(layout.shard_bytes);
  encoder.Int(static_cast<uint32_t>(layout.entries.size())).Int(uint32_t{0});
  encoder.Raw(AsText(std::as_bytes(std::span(layout.layout_hash)))).Int(uint64_t{0});
  for (const LayoutEntry& entry : layout.entries) {
    encoder.Int(static_cast<uint16_t>(entry.name.size()));
    encoder.Int(entry.is_tensor() ? kKindTensor : kKindBytes).Int(entry.dtype);
    encoder.Int(static_cast<uint8_t>(entry.dims.size())).Raw(std::string_view("\0\0\0", 3));
    encoder.Int(entry.data_offset).Int(entry.data_bytes);
    for (const Dim& dim : entry.dims) {
      encoder.Int(dim.full).Int(dim.offset).Int(dim.size);
    }
    encoder.Raw(entry.name);
  }
  std::string table = encoder.Take();
  GEMEL_CHECK_LE(table.size(), layout.layout_bytes);
  table.resize(layout.layout_bytes, '\0');
  return table;
}

absl::Status PlaceEntries(ShardLayout* layout) {
  uint64_t table = kHeaderBytes;
  for (const LayoutEntry& entry : layout->entries) {
    table += TableBytes(entry);
  }
  layout->layout_bytes = AlignUp(table, kLayoutAlignBytes);
  uint64_t end = layout->layout_bytes;
  for (LayoutEntry& entry : layout->entries) {
    entry.data_offset = AlignUp(end, kLayoutAlignBytes);
    if (entry.data_bytes > kShardBytesMax - std::min(entry.data_offset, kShardBytesMax)) {
      return error::InvalidArgument("layout.shard_bytes: more than {}", kShardBytesMax);
    }
    end = entry.data_offset + entry.data_bytes;
  }
  layout->shard_bytes = end;
  return CheckLayout(*layout);
}

std::optional<uint64_t> Product(const std::vector<uint64_t>& sizes) {
  if (std::find(sizes.begin(), sizes.end(), 0) != sizes.end()) {
    return 0;
  }
  uint64_t product = 1;
  for (const uint64_t size : sizes) {
    if (__builtin_mul_overflow(product, size, &product)) {
      return std::nullopt;
    }
  }
  return product;
}

bool IsUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<uint8_t>(text[i]);
    const size_t more = lead < 0x80 ? 0 : lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    if ((lead >= 0x80 && lead < 0xc2) || lead > 0xf4 || more >= text.size() - i) {
      return false;
    }
    uint32_t code = more == 0 ? lead : lead & (0x3fU >> more);
    for (size_t k = 1; k <= more; ++k) {
      const auto next = static_cast<uint8_t>(text[i + k]);
      if ((next & 0xc0) != 0x80) {
        return false;
      }
      code = code << 6 | (next & 0x3f);
    }
    constexpr std::array<uint32_t, 4> kLeast = {0, 0x80, 0x800, 0x10000};
    if (code < kLeast[more] || (code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff) {
      return false;
    }
    i += more + 1;
  }
  return true;
}

}  // namespace gemel::archive
