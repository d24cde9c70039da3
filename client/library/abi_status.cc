// SPDX-License-Identifier: Apache-2.0
#include "client/library/abi_status.h"

#include <cstdlib>

#include "common/check.h"
#include "common/errors.h"
#include "common/random.h"
#include "common/real_process.h"

namespace gemel {

static_assert(GEMEL_INVALID_ARGUMENT == static_cast<int>(absl::StatusCode::kInvalidArgument));
static_assert(GEMEL_DEADLINE_EXCEEDED == static_cast<int>(absl::StatusCode::kDeadlineExceeded));
static_assert(GEMEL_RESOURCE_EXHAUSTED == static_cast<int>(absl::StatusCode::kResourceExhausted));
static_assert(GEMEL_FAILED_PRECONDITION == static_cast<int>(absl::StatusCode::kFailedPrecondition));
static_assert(GEMEL_DATA_LOSS == static_cast<int>(absl::StatusCode::kDataLoss));

gemel_status ToC(const absl::Status& status) {
  if (status.ok()) {
    return {GEMEL_OK, nullptr};
  }
  const std::string_view text = MessageOf(status);
  auto* message = static_cast<char*>(std::malloc(text.size() + 1));
  GEMEL_CHECK(message != nullptr) << "no memory for " << text.size() << " bytes of a message";
  std::memcpy(message, text.data(), text.size());
  message[text.size()] = '\0';
  return {static_cast<int>(status.code()), message};
}

absl::Status RequireText(const char* text, const char* what) {
  return text != nullptr && *text != '\0' ? absl::OkStatus()
                                          : error::InvalidArgument("{} is missing", what);
}

absl::Status RequireSize(size_t size, size_t least, const char* what) {
  return size >= least ? absl::OkStatus()
                       : error::InvalidArgument("struct_bytes of {} is {}, not sizeof ({} or more)",
                                                what, size, least);
}

}  // namespace gemel

void gemel_status_free(gemel_status* status) {
  if (status != nullptr) {
    std::free(status->message);
    status->message = nullptr;
  }
}

void gemel_token_draw(uint8_t token[16]) {
  gemel::RealProcess process;
  const uint64_t low = process.Entropy64();
  const uint64_t high = process.Entropy64();
  std::memcpy(token, &low, sizeof(low));
  std::memcpy(token + sizeof(low), &high, sizeof(high));
}
