// SPDX-License-Identifier: Apache-2.0
//
// The safetensors format, as its reference library reads it:
//
//   0  u64 little-endian  bytes of the header, a multiple of 8
//   8  JSON object        name -> {"dtype", "shape", "data_offsets": [begin, end]}, padded with
//                         spaces; "__metadata__" -> object of strings
//   …  data               the tensors, without holes, in C order
//
// A dtype that the format lacks (complex32, complex128) is kept as U8 with one dimension more, the
// bytes of an element; "__metadata__"."gemel.dtype.<name>" says what it is.
//
// The reader is total: any bytes give a Header or InvalidArgument that names the tensor and the
// field: holes, overlaps, a size that is not product(shape) × bytes of an element, overflow, names
// twice, offsets beyond the file, more than kHeaderBytesMax or kTensorsMax.
//
// Thread safety: values; all functions are pure.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

#include "client/archive/layout.h"
#include "common/bytes.h"

namespace gemel::archive::safetensors {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kHeaderAlignBytes = 8;
constexpr uint64_t kHeaderBytesMax = 64 * kMiB;  // the reference library stops at 100 MB
constexpr size_t kTensorsMax = 1U << 20;

struct Tensor {
  std::string name;
  Dtype dtype = Dtype::kNone;
  std::vector<uint64_t> shape;
  uint64_t begin = 0;  // within the data
  uint64_t end = 0;

  uint64_t bytes() const { return end - begin; }

  friend bool operator==(const Tensor&, const Tensor&) = default;
};

// Invariant: tensors lie one after the other from 0, in this order.
struct Header {
  std::vector<Tensor> tensors;
  std::map<std::string, std::string> metadata;
  uint64_t data_begin = 0;  // within the file

  uint64_t data_bytes() const { return tensors.empty() ? 0 : tensors.back().end; }

  uint64_t file_bytes() const { return data_begin + data_bytes(); }
};

// True when the format has a name of its own for it.
bool HasDtype(Dtype dtype);

// Places the tensors one after the other in the order that keeps every one aligned (largest
// elements first, then by name) and sets data_begin. InvalidArgument when the header grows beyond
// kHeaderBytesMax. REQUIRES: dtype and shape set, names different.
absl::Status Place(Header* header);

// Bytes 0 .. data_begin of the file. REQUIRES: placed.
std::string EncodeHeader(const Header& header);

// What a tensor adds to the header, about, never less.
uint64_t HeaderBytesOf(const Tensor& tensor);

// The header's length from the first kLengthBytes of a file of `file_bytes`.
absl::StatusOr<uint64_t> DecodeLength(ByteSpan start, uint64_t file_bytes);

// `json` is what follows the length. Dtypes that we keep under another name are given back.
absl::StatusOr<Header> DecodeHeader(std::string_view json, uint64_t file_bytes);

}  // namespace gemel::archive::safetensors
