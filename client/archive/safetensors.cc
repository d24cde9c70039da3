// SPDX-License-Identifier: Apache-2.0
#include "client/archive/safetensors.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <tuple>

#include "client/archive/json_text.h"
#include "common/check.h"
#include "common/codec.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::archive::safetensors {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kMetadata = "__metadata__";
constexpr std::string_view kDtypePrefix = "gemel.dtype.";
constexpr size_t kJsonDepthMax = 3;
constexpr uint64_t kEntryFixedBytes = 512;  // dtype, offsets, punctuation and the dtype's own line

static_assert(kLengthBytes % kHeaderAlignBytes == 0, "the header's end is aligned");
static_assert(kHeaderBytesMax < 100'000'000, "what the reference library reads");

struct DtypeWord {
  std::string_view word;
  Dtype dtype;
};

constexpr std::array<DtypeWord, 19> kWords = {{
    {"F32", Dtype::kFloat32},
    {"F64", Dtype::kFloat64},
    {"F16", Dtype::kFloat16},
    {"BF16", Dtype::kBfloat16},
    {"I8", Dtype::kInt8},
    {"I16", Dtype::kInt16},
    {"I32", Dtype::kInt32},
    {"I64", Dtype::kInt64},
    {"U8", Dtype::kUint8},
    {"U16", Dtype::kUint16},
    {"U32", Dtype::kUint32},
    {"U64", Dtype::kUint64},
    {"BOOL", Dtype::kBool},
    {"C64", Dtype::kComplex64},
    {"F8_E4M3", Dtype::kFloat8E4m3fn},
    {"F8_E5M2", Dtype::kFloat8E5m2},
    {"F8_E4M3FNUZ", Dtype::kFloat8E4m3fnuz},
    {"F8_E5M2FNUZ", Dtype::kFloat8E5m2fnuz},
    {"F8_E8M0", Dtype::kFloat8E8m0fnu},
}};

std::string_view WordOf(Dtype dtype) {
  for (const DtypeWord& entry : kWords) {
    if (entry.dtype == dtype) {
      return entry.word;
    }
  }
  return {};
}

// Bytes that `tensor` has by its shape, or nothing beyond 64 bits.
std::optional<uint64_t> BytesByShape(const Tensor& tensor) {
  std::vector<uint64_t> sizes = tensor.shape;
  sizes.push_back(ItemBytes(tensor.dtype));
  return Product(sizes);
}

Json JsonOf(const Tensor& tensor) {
  std::vector<uint64_t> shape = tensor.shape;
  std::string_view word = WordOf(tensor.dtype);
  if (word.empty()) {
    word = "U8";
    shape.push_back(ItemBytes(tensor.dtype));
  }
  return {{"dtype", word}, {"shape", shape}, {"data_offsets", {tensor.begin, tensor.end}}};
}

std::string JsonText(const Header& header) {
  Json json = Json::object();
  Json metadata = Json::object();
  for (const auto& [key, value] : header.metadata) {
    metadata[key] = value;
  }
  for (const Tensor& tensor : header.tensors) {
    if (!HasDtype(tensor.dtype)) {
      metadata[std::string(kDtypePrefix) + tensor.name] = DtypeName(tensor.dtype);
    }
  }
  json[kMetadata] = std::move(metadata);
  for (const Tensor& tensor : header.tensors) {
    json[tensor.name] = JsonOf(tensor);
  }
  std::string text = json.dump();
  text.resize(AlignUp(text.size(), kHeaderAlignBytes), ' ');
  return text;
}

// Members of `json` are unsigned numbers; at most `count_max` of them.
absl::StatusOr<std::vector<uint64_t>> Numbers(const Json& json, const char* field,
                                              const std::string& name, size_t count_max) {
  const auto found = json.find(field);
  if (found == json.end() || !found->is_array() || found->size() > count_max) {
    return error::InvalidArgument("safetensors: '{}'.{} is not a list of at most {} numbers", name,
                                  field, count_max);
  }
  std::vector<uint64_t> numbers;
  for (const Json& number : *found) {
    if (!number.is_number_unsigned()) {
      return error::InvalidArgument("safetensors: '{}'.{} holds {}, not a size", name, field,
                                    number.dump());
    }
    numbers.push_back(number.get<uint64_t>());
  }
  return numbers;
}

absl::StatusOr<Tensor> TensorOf(const std::string& name, const Json& json) {
  if (!json.is_object() || json.size() != 3) {
    return error::InvalidArgument("safetensors: '{}' is not {{dtype, shape, data_offsets}}", name);
  }
  const auto word = json.find("dtype");
  if (word == json.end() || !word->is_string()) {
    return error::InvalidArgument("safetensors: '{}'.dtype is not a string", name);
  }
  Tensor tensor;
  tensor.name = name;
  for (const DtypeWord& entry : kWords) {
    if (entry.word == word->get_ref<const std::string&>()) {
      tensor.dtype = entry.dtype;
    }
  }
  if (tensor.dtype == Dtype::kNone) {
    return error::InvalidArgument("safetensors: '{}'.dtype {} is not known here", name,
                                  word->dump());
  }
  // One more than we write: an element's bytes where the format lacks the dtype.
  GEMEL_ASSIGN_OR_RETURN(tensor.shape, Numbers(json, "shape", name, kTensorDimsMax + 1));
  GEMEL_ASSIGN_OR_RETURN(std::vector<uint64_t> offsets, Numbers(json, "data_offsets", name, 2));
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    return error::InvalidArgument("safetensors: '{}'.data_offsets is not [begin, end]", name);
  }
  tensor.begin = offsets[0];
  tensor.end = offsets[1];
  const std::optional<uint64_t> bytes = BytesByShape(tensor);
  if (!bytes.has_value() || *bytes != tensor.bytes()) {
    return error::InvalidArgument("safetensors: '{}' has {} bytes by its offsets, {} by its shape",
                                  name, tensor.bytes(),
                                  bytes.has_value() ? fmt::to_string(*bytes) : "more than 64 bits");
  }
  return tensor;
}

absl::Status ReadMetadata(const Json& json, Header* header) {
  if (!json.is_object()) {
    return error::InvalidArgument("safetensors: __metadata__ is not an object");
  }
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string()) {
      return error::InvalidArgument("safetensors: __metadata__.'{}' is not a string", key);
    }
    header->metadata[key] = value.get<std::string>();
  }
  return absl::OkStatus();
}

// Gives a tensor that was kept as U8 its own dtype again.
absl::Status RestoreDtype(Header* header, Tensor* tensor) {
  const auto kept = header->metadata.find(std::string(kDtypePrefix) + tensor->name);
  if (kept == header->metadata.end()) {
    return absl::OkStatus();
  }
  const std::optional<Dtype> dtype = DtypeNamed(kept->second);
  if (!dtype.has_value() || HasDtype(*dtype) || tensor->dtype != Dtype::kUint8 ||
      tensor->shape.empty() || tensor->shape.back() != ItemBytes(*dtype)) {
    return error::InvalidArgument("safetensors: __metadata__ says that '{}' is {}, its shape not",
                                  tensor->name, kept->second);
  }
  tensor->dtype = *dtype;
  tensor->shape.pop_back();
  header->metadata.erase(kept);
  return absl::OkStatus();
}

absl::Status CheckPlaces(Header* header, uint64_t file_bytes) {
  std::sort(header->tensors.begin(), header->tensors.end(), [](const Tensor& a, const Tensor& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t end = 0;
  for (const Tensor& tensor : header->tensors) {
    if (tensor.shape.size() > kTensorDimsMax) {
      return error::InvalidArgument("safetensors: '{}' has {} dimensions, at most {}", tensor.name,
                                    tensor.shape.size(), kTensorDimsMax);
    }
    if (tensor.begin != end) {
      return error::InvalidArgument("safetensors: '{}' begins at {}, the data before it ends at {}",
                                    tensor.name, tensor.begin, end);
    }
    end = tensor.end;
  }
  if (end != file_bytes - header->data_begin) {
    return error::InvalidArgument(
        "safetensors: the tensors have {} bytes, the file has {} for them", end,
        file_bytes - header->data_begin);
  }
  return absl::OkStatus();
}

}  // namespace

bool HasDtype(Dtype dtype) { return !WordOf(dtype).empty(); }

uint64_t HeaderBytesOf(const Tensor& tensor) {
  // A byte of a name may take six in JSON (\u001f), and stands twice where the dtype has a line.
  return kEntryFixedBytes + 12 * tensor.name.size() + 24 * tensor.shape.size();
}

absl::Status Place(Header* header) {
  std::sort(header->tensors.begin(), header->tensors.end(), [](const Tensor& a, const Tensor& b) {
    const uint64_t a_bytes = ItemBytes(a.dtype);
    const uint64_t b_bytes = ItemBytes(b.dtype);
    return a_bytes != b_bytes ? a_bytes > b_bytes : a.name < b.name;
  });
  uint64_t end = 0;
  for (Tensor& tensor : header->tensors) {
    const std::optional<uint64_t> bytes = BytesByShape(tensor);
    if (!bytes.has_value() || __builtin_add_overflow(end, *bytes, &tensor.end)) {
      return error::InvalidArgument("safetensors: '{}' has more bytes than 64 bits hold",
                                    tensor.name);
    }
    tensor.begin = end;
    end = tensor.end;
  }
  header->data_begin = kLengthBytes + JsonText(*header).size();
  if (header->data_begin > kHeaderBytesMax) {
    return error::InvalidArgument("safetensors: a header of {} bytes, at most {}",
                                  header->data_begin, kHeaderBytesMax);
  }
  return absl::OkStatus();
}

std::string EncodeHeader(const Header& header) {
  const std::string text = JsonText(header);
  GEMEL_CHECK_EQ(header.data_begin, kLengthBytes + text.size()) << "Place() comes first";
  return Encoder().Int(uint64_t{text.size()}).Take() + text;
}

absl::StatusOr<uint64_t> DecodeLength(ByteSpan start, uint64_t file_bytes) {
  if (start.size() < kLengthBytes || file_bytes < kLengthBytes) {
    return error::InvalidArgument("safetensors: a file of {} bytes has no header", file_bytes);
  }
  Decoder decoder(start.first(kLengthBytes));
  const auto length = decoder.Int<uint64_t>("length");
  if (length > kHeaderBytesMax || length > file_bytes - kLengthBytes) {
    return error::InvalidArgument(
        "safetensors: a header of {} bytes in a file of {}, at most {}: cut short, or no "
        "safetensors file",
        length, file_bytes, kHeaderBytesMax);
  }
  return length;
}

absl::StatusOr<Header> DecodeHeader(std::string_view json_text, uint64_t file_bytes) {
  Header header;
  header.data_begin = kLengthBytes + json_text.size();
  if (json_text.size() > kHeaderBytesMax || header.data_begin > file_bytes) {
    return error::InvalidArgument("safetensors: a header of {} bytes in a file of {}",
                                  json_text.size(), file_bytes);
  }
  GEMEL_ASSIGN_OR_RETURN(const Json json,
                         ParseJson(json_text, "safetensors header", kJsonDepthMax));
  if (!json.is_object() || json.size() > kTensorsMax) {
    return error::InvalidArgument("safetensors: the header is not an object of at most {} tensors",
                                  kTensorsMax);
  }
  for (const auto& [name, value] : json.items()) {
    if (name == kMetadata) {
      GEMEL_RETURN_IF_ERROR(ReadMetadata(value, &header));
      continue;
    }
    GEMEL_ASSIGN_OR_RETURN(Tensor tensor, TensorOf(name, value));
    header.tensors.push_back(std::move(tensor));
  }
  for (Tensor& tensor : header.tensors) {
    GEMEL_RETURN_IF_ERROR(RestoreDtype(&header, &tensor));
  }
  GEMEL_RETURN_IF_ERROR(CheckPlaces(&header, file_bytes));
  return header;
}

}  // namespace gemel::archive::safetensors
