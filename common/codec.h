// SPDX-License-Identifier: Apache-2.0
//
// Encoder and Decoder: the little-endian encoding of all our own frames and files (docs/formats).
// Integers are fixed width; strings and lists carry a u32 count first. No alignment, no padding.
//
// The Decoder is total: any input gives values or an error that names the field, never a read
// outside the input, never an allocation larger than the input. Errors stick: after the first,
// every read gives zero and Finish() reports it, so callers check once.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"

#include "common/bytes.h"
#include "common/check.h"
#include "common/ids.h"

namespace gemel {

class Encoder {
 public:
  template <typename T>
  Encoder& Int(T value) {
    static_assert(std::is_integral_v<T> || std::is_enum_v<T>);
    auto bits = static_cast<uint64_t>(value);
    for (size_t i = 0; i < sizeof(T); ++i) {
      out_.push_back(static_cast<char>(bits >> (8 * i)));
    }
    return *this;
  }

  Encoder& String(std::string_view text) {
    GEMEL_CHECK_LE(text.size(), std::numeric_limits<uint32_t>::max());
    Int(static_cast<uint32_t>(text.size()));
    out_.append(text);
    return *this;
  }

  // No count: the length is known to both sides.
  Encoder& Raw(std::string_view bytes) {
    out_.append(bytes);
    return *this;
  }

  template <typename Tag>
  Encoder& Id(const Id128<Tag>& id) {
    return Raw(id.ToBytes());
  }

  Encoder& Epoch(const EpochId& epoch) { return Int(epoch.generation).Int(epoch.counter); }

  size_t size() const { return out_.size(); }

  std::string Take() { return std::move(out_); }

 private:
  std::string out_;
};

class Decoder {
 public:
  explicit Decoder(std::string_view input) : input_(input) {}

  explicit Decoder(ByteSpan input) : input_(AsText(input)) {}

  template <typename T>
  T Int(std::string_view field) {
    static_assert(std::is_integral_v<T> || std::is_enum_v<T>);
    std::string_view raw = Raw(sizeof(T), field);
    uint64_t bits = 0;
    for (size_t i = 0; i < raw.size(); ++i) {
      bits |= static_cast<uint64_t>(static_cast<unsigned char>(raw[i])) << (8 * i);
    }
    if constexpr (std::is_same_v<T, bool>) {
      if (bits > 1) {
        Fail(field, "is neither 0 nor 1");
        return false;
      }
    }
    return static_cast<T>(bits);
  }

  std::string String(std::string_view field, size_t bytes_max) {
    auto count = Int<uint32_t>(field);
    if (count > bytes_max) {
      Fail(field, "is longer than its limit");
      return {};
    }
    return std::string(Raw(count, field));
  }

  // `count` bytes of the input; empty after an error.
  std::string_view Raw(size_t count, std::string_view field) {
    if (!error_.ok() || count > input_.size() - position_) {
      Fail(field, "is cut short");
      return {};
    }
    std::string_view raw = input_.substr(position_, count);
    position_ += count;
    return raw;
  }

  // The count of a list whose items take at least `item_bytes_min` each: bounded by what is left.
  uint32_t Count(std::string_view field, size_t item_bytes_min);

  template <typename Tag>
  Id128<Tag> Id(std::string_view field) {
    auto id = Id128<Tag>::FromBytes(Raw(16, field));
    return id.ok() ? *id : Id128<Tag>();
  }

  EpochId Epoch(std::string_view field) {
    EpochId epoch;
    epoch.generation = Int<uint64_t>(field);
    epoch.counter = Int<uint64_t>(field);
    return epoch;
  }

  // Records that `field` holds something that must not be (a bad enum, an overflow). First error
  // wins.
  void Fail(std::string_view field, std::string_view what);

  bool ok() const { return error_.ok(); }

  size_t remaining() const { return input_.size() - position_; }

  // The first error, or InvalidArgument when input is left over; `what` names the message.
  absl::Status Finish(std::string_view what) const;

 private:
  std::string_view input_;
  size_t position_ = 0;
  absl::Status error_;
};

}  // namespace gemel
