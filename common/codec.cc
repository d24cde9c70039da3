// SPDX-License-Identifier: Apache-2.0
#include "common/codec.h"

#include "common/check.h"
#include "common/errors.h"

namespace gemel {

uint32_t Decoder::Count(std::string_view field, size_t item_bytes_min) {
  GEMEL_CHECK_GT(item_bytes_min, 0U);
  auto count = Int<uint32_t>(field);
  if (count > remaining() / item_bytes_min) {
    Fail(field, "counts more than the input holds");
    return 0;
  }
  return count;
}

void Decoder::Fail(std::string_view field, std::string_view what) {
  if (error_.ok()) {
    error_ = error::InvalidArgument("field '{}' at byte {} {}", field, position_, what);
  }
}

absl::Status Decoder::Finish(std::string_view what) const {
  GEMEL_CHECK_LE(position_, input_.size());
  if (!error_.ok()) {
    return Annotate(error_, what);
  }
  if (remaining() != 0) {
    return error::InvalidArgument("{}: {} bytes are left over after the last field", what,
                                  remaining());
  }
  return absl::OkStatus();
}

}  // namespace gemel
