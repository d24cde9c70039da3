// SPDX-License-Identifier: Apache-2.0
//
// Messages by their fields: a struct lists its fields once, and both directions follow from it.
//
//   struct Offer {
//     static constexpr std::string_view kName = "offer";
//     ShardId shard;
//     uint64_t bytes = 0;
//     static void Fields(auto& message, auto&& field) {
//       field("shard", message.shard);
//       field("bytes", message.bytes);
//     }
//   };
//   std::string raw = EncodeMessage(offer);
//   absl::StatusOr<Offer> offer = DecodeMessage<Offer>(raw);
//
// Encoding: common/codec.h, fields in order. An enumeration needs `IsValid(E)` beside it. Decoding
// is total: InvalidArgument naming message and field for anything else than what EncodeMessage
// gives.
#pragma once

#include <concepts>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/status/statusor.h"

#include "common/codec.h"
#include "common/digest.h"
#include "common/ids.h"

namespace gemel {

constexpr size_t kFieldStringBytesMax = 4 * kMiB;

class FieldEncoder {
 public:
  explicit FieldEncoder(Encoder* encoder) : encoder_(encoder) {}

  void operator()(std::string_view, const std::string& value) { encoder_->String(value); }

  void operator()(std::string_view, bool value) { encoder_->Int<uint8_t>(value ? 1 : 0); }

  template <typename T>
    requires(std::is_integral_v<T> || std::is_enum_v<T>)
  void operator()(std::string_view, T value) {
    encoder_->Int(value);
  }

  template <typename Tag>
  void operator()(std::string_view, const Id128<Tag>& id) {
    encoder_->Id(id);
  }

  void operator()(std::string_view, const Digest128& digest) {
    encoder_->Int(digest.low).Int(digest.high);
  }

  void operator()(std::string_view, const EpochId& epoch) { encoder_->Epoch(epoch); }

  void operator()(std::string_view name, const SnapshotId& id) {
    (*this)(name, id.job);
    (*this)(name, id.epoch);
    (*this)(name, id.sequence);
    (*this)(name, id.name);
    (*this)(name, id.attempt);
  }

  void operator()(std::string_view name, const ShardId& id) {
    (*this)(name, id.snapshot);
    (*this)(name, id.rank);
  }

  template <typename T>
  void operator()(std::string_view name, const std::vector<T>& values) {
    encoder_->Int(static_cast<uint32_t>(values.size()));
    for (const T& value : values) {
      (*this)(name, value);
    }
  }

  template <typename T>
    requires requires(const T& message, FieldEncoder& self) { T::Fields(message, self); }
  void operator()(std::string_view, const T& message) {
    T::Fields(message, *this);
  }

  // The last field of what stands by itself, added after others were written without it: absent it
  // is zero, and zero is never written, so every value still has one encoding.
  template <typename T>
    requires std::is_enum_v<T> || std::is_unsigned_v<T>
  void Last(std::string_view name, T value) {
    if (value != T{}) {
      (*this)(name, value);
    }
  }

 private:
  Encoder* encoder_;
};

class FieldDecoder {
 public:
  explicit FieldDecoder(Decoder* decoder) : decoder_(decoder) {}

  void operator()(std::string_view name, std::string& value) {
    value = decoder_->String(name, kFieldStringBytesMax);
  }

  void operator()(std::string_view name, bool& value) {
    const auto raw = decoder_->Int<uint8_t>(name);
    if (raw > 1) {
      decoder_->Fail(name, "is neither 0 nor 1");
    }
    value = raw == 1;
  }

  template <typename T>
    requires std::is_integral_v<T>
  void operator()(std::string_view name, T& value) {
    value = decoder_->Int<T>(name);
  }

  template <typename T>
    requires std::is_enum_v<T>
  void operator()(std::string_view name, T& value) {
    value = decoder_->Int<T>(name);
    if (!IsValid(value)) {
      decoder_->Fail(name, "is not a known value");
    }
  }

  template <typename Tag>
  void operator()(std::string_view name, Id128<Tag>& id) {
    id = decoder_->Id<Tag>(name);
  }

  void operator()(std::string_view name, Digest128& digest) {
    digest.low = decoder_->Int<uint64_t>(name);
    digest.high = decoder_->Int<uint64_t>(name);
  }

  void operator()(std::string_view name, EpochId& epoch) { epoch = decoder_->Epoch(name); }

  void operator()(std::string_view name, SnapshotId& id) {
    (*this)(name, id.job);
    (*this)(name, id.epoch);
    (*this)(name, id.sequence);
    (*this)(name, id.name);
    (*this)(name, id.attempt);
  }

  void operator()(std::string_view name, ShardId& id) {
    (*this)(name, id.snapshot);
    (*this)(name, id.rank);
  }

  template <typename T>
  void operator()(std::string_view name, std::vector<T>& values) {
    // Every item takes at least one byte, so the list is never longer than the input.
    const uint32_t count = decoder_->Count(name, 1);
    values.clear();
    for (uint32_t i = 0; i < count && decoder_->ok(); ++i) {
      (*this)(name, values.emplace_back());
    }
  }

  template <typename T>
    requires requires(T& message, FieldDecoder& self) { T::Fields(message, self); }
  void operator()(std::string_view, T& message) {
    T::Fields(message, *this);
  }

  template <typename T>
    requires std::is_enum_v<T> || std::is_unsigned_v<T>
  void Last(std::string_view name, T& value) {
    value = T{};
    if (decoder_->remaining() == 0) {
      return;
    }
    (*this)(name, value);
    if (value == T{}) {
      decoder_->Fail(name, "is written though it is zero");
    }
  }

 private:
  Decoder* decoder_;
};

template <typename Message>
std::string EncodeMessage(const Message& message) {
  Encoder encoder;
  FieldEncoder field(&encoder);
  Message::Fields(message, field);
  return encoder.Take();
}

template <typename Message>
absl::StatusOr<Message> DecodeMessage(std::string_view raw) {
  Decoder decoder(raw);
  FieldDecoder field(&decoder);
  Message message;
  Message::Fields(message, field);
  absl::Status status = decoder.Finish(Message::kName);
  if (!status.ok()) {
    return status;
  }
  return message;
}

}  // namespace gemel
