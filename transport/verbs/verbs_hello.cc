// SPDX-License-Identifier: Apache-2.0
#include "transport/verbs/verbs_hello.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "common/codec.h"
#include "common/crc32c.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

constexpr uint32_t kMagic = 0x564d4547;  // "GEMV" on the wire
constexpr size_t kGidBytes = 16;
constexpr size_t kCheckedBytes = kVerbsHelloBytes - sizeof(uint32_t);
constexpr size_t kUnusedBytes = 20;
constexpr size_t kUnusedPreludeBytes = 6;

absl::Status CheckHello(const VerbsHello& hello, uint8_t mtu) {
  if (mtu < IBV_MTU_256 || mtu > IBV_MTU_4096) {
    return error::InvalidArgument("verbs hello: {} is no size of a packet", mtu);
  }
  if (hello.slots < kVerbsSlotsMin || hello.slots > kVerbsSlotsMax ||
      hello.slot_bytes < kVerbsSlotBytesMin || hello.slot_bytes > kVerbsSlotBytesMax) {
    return error::InvalidArgument("verbs hello: {} slots of {} bytes; {} to {} of {} to {} may be",
                                  hello.slots, hello.slot_bytes, kVerbsSlotsMin, kVerbsSlotsMax,
                                  kVerbsSlotBytesMin, kVerbsSlotBytesMax);
  }
  return absl::OkStatus();
}

}  // namespace

std::string EncodeVerbsHello(const VerbsHello& hello) {
  const VerbsAddress& address = hello.address;
  Encoder encoder;
  encoder.Int(kMagic).Int(kVerbsVersion).Int(static_cast<uint8_t>(address.mtu)).Int(address.lid);
  encoder.Raw({reinterpret_cast<const char*>(address.gid.raw), kGidBytes});
  encoder.Int(address.queue_pair).Int(address.first_packet).Int(hello.slots).Int(hello.slot_bytes);
  encoder.Raw(std::string(kUnusedBytes, '\0'));
  std::string bytes = encoder.Take();
  GEMEL_CHECK_EQ(bytes.size(), kCheckedBytes);
  Encoder tail;
  tail.Int(Crc32c(AsBytes(bytes)));
  return bytes + tail.Take();
}

absl::StatusOr<VerbsHello> DecodeVerbsHello(ByteSpan bytes) {
  if (bytes.size() != kVerbsHelloBytes) {
    return error::InvalidArgument("a verbs hello has {} bytes; it must have {}", bytes.size(),
                                  kVerbsHelloBytes);
  }
  Decoder decoder(bytes);
  const auto magic = decoder.Int<uint32_t>("magic");
  const auto version = decoder.Int<uint8_t>("version");
  if (magic != kMagic) {
    return error::InvalidArgument(
        "verbs hello: magic {:#x} is not Gemel's; is something else speaking on this port?", magic);
  }
  if (version != kVerbsVersion) {
    return error::FailedPrecondition(
        "verbs hello of version {}, this program speaks {}: update the older one", version,
        kVerbsVersion);
  }
  VerbsHello hello;
  const auto mtu = decoder.Int<uint8_t>("mtu");
  hello.address.lid = decoder.Int<uint16_t>("lid");
  const std::string_view gid = decoder.Raw(kGidBytes, "gid");
  std::copy(gid.begin(), gid.end(), hello.address.gid.raw);
  hello.address.queue_pair = decoder.Int<uint32_t>("queue_pair");
  hello.address.first_packet = decoder.Int<uint32_t>("first_packet");
  hello.slots = decoder.Int<uint32_t>("slots");
  hello.slot_bytes = decoder.Int<uint32_t>("slot_bytes");
  decoder.Raw(kUnusedBytes, "unused");
  const auto checksum = decoder.Int<uint32_t>("checksum");
  GEMEL_RETURN_IF_ERROR(decoder.Finish("verbs hello"));
  if (checksum != Crc32c(bytes.first(kCheckedBytes))) {
    return error::InvalidArgument("verbs hello: its checksum does not match");
  }
  GEMEL_RETURN_IF_ERROR(CheckHello(hello, mtu));
  hello.address.mtu = static_cast<ibv_mtu>(mtu);
  return hello;
}

size_t EncodeVerbsPrelude(const VerbsPrelude& prelude, MutableByteSpan message) {
  const size_t reference_bytes = prelude.reference.has_value() ? kVerbsReferenceBytes : 0;
  const size_t bytes = kVerbsPreludeBytes + prelude.bytes + reference_bytes;
  GEMEL_CHECK_GE(message.size(), bytes);
  Encoder encoder;
  encoder.Int(kVerbsVersion).Int(static_cast<uint8_t>(prelude.reference.has_value()));
  encoder.Int(prelude.returned).Int(prelude.bytes).Int(prelude.read);
  encoder.Raw(std::string(kUnusedPreludeBytes, '\0'));
  const std::string head = encoder.Take();
  GEMEL_CHECK_EQ(head.size(), kVerbsPreludeBytes);
  std::memcpy(message.data(), head.data(), head.size());
  if (prelude.reference.has_value()) {
    Encoder tail;
    tail.Int(prelude.reference->place.address).Int(prelude.reference->place.key);
    tail.Int(prelude.reference->bytes);
    const std::string reference = tail.Take();
    GEMEL_CHECK_EQ(reference.size(), kVerbsReferenceBytes);
    std::memcpy(message.data() + kVerbsPreludeBytes + prelude.bytes, reference.data(),
                reference.size());
  }
  return bytes;
}

absl::StatusOr<VerbsPrelude> DecodeVerbsPrelude(ByteSpan message) {
  Decoder decoder(message);
  VerbsPrelude prelude;
  const auto version = decoder.Int<uint8_t>("version");
  const auto references = decoder.Int<uint8_t>("references");
  prelude.returned = decoder.Int<uint16_t>("returned");
  prelude.bytes = decoder.Int<uint32_t>("bytes");
  prelude.read = decoder.Int<uint16_t>("read");
  const std::string_view unused = decoder.Raw(kUnusedPreludeBytes, "unused");
  const size_t behind = references * kVerbsReferenceBytes;
  if (message.size() < kVerbsPreludeBytes || version != kVerbsVersion || references > 1 ||
      unused != std::string(kUnusedPreludeBytes, '\0') ||
      message.size() - kVerbsPreludeBytes != prelude.bytes + behind) {
    return error::InvalidArgument(
        "a message of {} bytes over verbs says version {}, {} bytes of the stream and {} "
        "references",
        message.size(), version, prelude.bytes, references);
  }
  if (references == 1) {
    Decoder tail(message.last(kVerbsReferenceBytes));
    VerbsReference& reference = prelude.reference.emplace();
    reference.place.address = tail.Int<uint64_t>("address");
    reference.place.key = tail.Int<uint32_t>("key");
    reference.bytes = tail.Int<uint32_t>("bytes");
    GEMEL_RETURN_IF_ERROR(tail.Finish("reference"));
    if (reference.bytes == 0 || reference.bytes > kVerbsReferredBytesMax) {
      return error::InvalidArgument("a reference of {} bytes; 1 to {} may be", reference.bytes,
                                    kVerbsReferredBytesMax);
    }
  }
  return prelude;
}

}  // namespace gemel
