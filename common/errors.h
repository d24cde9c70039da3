// SPDX-License-Identifier: Apache-2.0
//
// Errors with formatted messages:  return error::DataLoss("chunk {} of {} …", index,
// id.ToString()); A message names the thing, the sizes and the way out. (Debian's absl::string_view
// is not std::string_view, so messages are formatted with fmt and read back through MessageOf().)
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"

namespace gemel {

inline std::string_view MessageOf(const absl::Status& status) {
  return {status.message().data(), status.message().size()};
}

inline absl::Status MakeStatus(absl::StatusCode code, std::string_view message) {
  return {code, absl::string_view(message.data(), message.size())};
}

// The same code, with `context` and a colon before the message.
inline absl::Status Annotate(const absl::Status& status, std::string_view context) {
  return status.ok() ? status
                     : MakeStatus(status.code(), fmt::format("{}: {}", context, MessageOf(status)));
}

// "NOT_FOUND: message", for logs.
inline std::string ToText(const absl::Status& status) { return status.ToString(); }

namespace error {

#define GEMEL_DEFINE_ERROR_(Name)                                         \
  template <typename... Args>                                             \
  absl::Status Name(fmt::format_string<Args...> format, Args&&... args) { \
    return MakeStatus(absl::StatusCode::k##Name,                          \
                      fmt::format(format, std::forward<Args>(args)...));  \
  }

GEMEL_DEFINE_ERROR_(Aborted)             // lost a race; read again and decide anew
GEMEL_DEFINE_ERROR_(AlreadyExists)       // the same name with other content
GEMEL_DEFINE_ERROR_(Cancelled)           // the caller went away or we are stopping
GEMEL_DEFINE_ERROR_(DataLoss)            // bytes fail their digest, or no copy is left
GEMEL_DEFINE_ERROR_(DeadlineExceeded)    // outcome unknown: read again, never reissue blindly
GEMEL_DEFINE_ERROR_(FailedPrecondition)  // fenced, superseded, wrong cluster, wrong version
GEMEL_DEFINE_ERROR_(Internal)
GEMEL_DEFINE_ERROR_(InvalidArgument)
GEMEL_DEFINE_ERROR_(NotFound)
GEMEL_DEFINE_ERROR_(PermissionDenied)
GEMEL_DEFINE_ERROR_(ResourceExhausted)
GEMEL_DEFINE_ERROR_(Unavailable)  // peer gone or not there yet: try again or elsewhere
GEMEL_DEFINE_ERROR_(Unimplemented)
GEMEL_DEFINE_ERROR_(Unknown)  // outcome unknown

#undef GEMEL_DEFINE_ERROR_

}  // namespace error
}  // namespace gemel
