// SPDX-License-Identifier: Apache-2.0
#include "common/record_frame.h"

#include "common/check.h"
#include "common/crc32c.h"
#include "common/errors.h"

namespace gemel {
namespace {

constexpr size_t kHeadBytes = sizeof(uint32_t) + sizeof(uint8_t);
constexpr size_t kChecksumBytes = sizeof(uint32_t);

}  // namespace

Encoder RecordFrame::Begin() const {
  Encoder encoder;
  encoder.Int(magic).Int(version);
  GEMEL_CHECK_EQ(encoder.size(), kHeadBytes) << what;
  return encoder;
}

std::string RecordFrame::End(Encoder* encoder) {
  GEMEL_CHECK_GE(encoder->size(), kHeadBytes);
  std::string raw = encoder->Take();
  Encoder tail;
  tail.Int(Crc32c(AsBytes(raw)));
  return raw + tail.Take();
}

absl::StatusOr<std::string_view> RecordFrame::FieldsOf(std::string_view raw) const {
  if (raw.size() < kHeadBytes + kChecksumBytes) {
    return error::InvalidArgument("{} of {} bytes is cut short", what, raw.size());
  }
  const std::string_view checked = raw.substr(0, raw.size() - kChecksumBytes);
  if (Decoder(raw.substr(checked.size())).Int<uint32_t>("crc32c") != Crc32c(AsBytes(checked))) {
    return error::InvalidArgument("{} of {} bytes fails its checksum", what, raw.size());
  }
  Decoder head(checked);
  if (head.Int<uint32_t>("magic") != magic) {
    return error::InvalidArgument("{}: the magic is not that of a {}", what, what);
  }
  const auto found = head.Int<uint8_t>("version");
  if (found != version) {
    return error::FailedPrecondition("{} has version {}; this Gemel reads version {}", what, found,
                                     version);
  }
  return checked.substr(kHeadBytes);
}

}  // namespace gemel
