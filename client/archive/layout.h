// SPDX-License-Identifier: Apache-2.0
//
// The layout of a shard: which bytes of it are which piece of which tensor
// (docs/formats/layout.md). The same format as integrations/python/gemel/torch/layout.py, with the
// same golden bytes.
//
// Decoding is total: any bytes give a ShardLayout, or InvalidArgument that names the field; never a
// read outside the input, never an allocation larger than a few times the input. The encoding is
// canonical: what decodes, encodes to the same bytes.
//
// Offsets and sizes are elements for tensors, bytes for the shard.
//
// Thread safety: values; all functions are pure.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

#include "common/bytes.h"

namespace gemel::archive {

constexpr uint64_t kLayoutAlignBytes = 64;
constexpr size_t kTensorNameBytesMax = 4096;
constexpr size_t kTensorDimsMax = 16;
constexpr uint32_t kLayoutEntriesMax = 1U << 20;
constexpr uint64_t kShardBytesMax = uint64_t{1} << 46;
constexpr uint64_t kDimMax = uint64_t{1} << 46;
constexpr uint32_t kWorldSizeMax = 1U << 20;

// Codes of the format, for ever.
enum class Dtype : uint8_t {
  kNone = 0,  // of a run of bytes
  kFloat32 = 1,
  kFloat64 = 2,
  kFloat16 = 3,
  kBfloat16 = 4,
  kInt8 = 5,
  kInt16 = 6,
  kInt32 = 7,
  kInt64 = 8,
  kUint8 = 9,
  kUint16 = 10,
  kUint32 = 11,
  kUint64 = 12,
  kBool = 13,
  kComplex64 = 14,
  kComplex128 = 15,
  kFloat8E4m3fn = 16,
  kFloat8E5m2 = 17,
  kFloat8E4m3fnuz = 18,
  kFloat8E5m2fnuz = 19,
  kFloat8E8m0fnu = 20,
  kComplex32 = 21,
};

constexpr uint8_t kDtypeMax = 21;

// Bytes of an element; 0 for kNone.
uint64_t ItemBytes(Dtype dtype);

// As torch calls it: "float32". Empty for kNone.
std::string_view DtypeName(Dtype dtype);

// Nothing when no dtype is called so.
std::optional<Dtype> DtypeNamed(std::string_view name);

// One dimension of a piece: `size` elements from `offset` of a tensor that has `full`.
struct Dim {
  uint64_t full = 0;
  uint64_t offset = 0;
  uint64_t size = 0;

  friend bool operator==(const Dim&, const Dim&) = default;
};

// One piece of a tensor, or a run of bytes (dtype kNone, no dimensions).
struct LayoutEntry {
  std::string name;  // UTF-8, 1..kTensorNameBytesMax bytes
  Dtype dtype = Dtype::kNone;
  std::vector<Dim> dims;
  uint64_t data_offset = 0;  // within the shard; a multiple of kLayoutAlignBytes
  uint64_t data_bytes = 0;

  bool is_tensor() const { return dtype != Dtype::kNone; }

  friend bool operator==(const LayoutEntry&, const LayoutEntry&) = default;
};

// Invariants: what DecodeLayout() checks. Entries lie one after the other, each at the next
// multiple of kLayoutAlignBytes; no name is there twice with the same offsets.
struct ShardLayout {
  uint32_t rank = 0;
  uint32_t world_size = 1;
  std::array<uint8_t, 16> layout_hash{};
  uint64_t layout_bytes = 0;  // the table with its padding; the data begins here
  uint64_t shard_bytes = 0;
  std::vector<LayoutEntry> entries;

  friend bool operator==(const ShardLayout&, const ShardLayout&) = default;
};

constexpr uint64_t AlignUp(uint64_t offset, uint64_t unit) { return DivideUp(offset, unit) * unit; }

// `table` is the whole table: exactly layout_bytes bytes.
absl::StatusOr<ShardLayout> DecodeLayout(ByteSpan table);

// REQUIRES: the invariants of ShardLayout.
std::string EncodeLayout(const ShardLayout& layout);

// Sets data_offset of all entries, layout_bytes and shard_bytes, in the order of the entries.
// InvalidArgument, naming the field, when that is no layout (a name twice, a shard too large).
absl::Status PlaceEntries(ShardLayout* layout);

// Number of elements, or nothing when the product does not fit 64 bits.
std::optional<uint64_t> Product(const std::vector<uint64_t>& sizes);

// True for well-formed UTF-8 (no surrogates, nothing overlong).
bool IsUtf8(std::string_view text);

}  // namespace gemel::archive
