// SPDX-License-Identifier: Apache-2.0
#include "common/disk.h"

#include "common/errors.h"

namespace gemel {
namespace {

// Why `part` cannot be one step of a path; empty when it can.
std::string_view FaultOfPart(std::string_view part) {
  if (part.empty()) {
    return "has an empty part";
  }
  if (part.front() == '.') {
    return "has a part that begins with '.'";
  }
  if (part.size() > kFileNamePartBytesMax) {
    return "has a part of more than 200 bytes";
  }
  if (part.find('\0') != std::string_view::npos) {
    return "holds a zero byte";
  }
  return {};
}

std::string_view FaultOfName(std::string_view name) {
  static_assert(kFileNamePartBytesMax == 200 && kFileNameBytesMax == 1024);  // said in the messages
  if (name.size() > kFileNameBytesMax) {
    return "is longer than 1024 bytes";
  }
  if (name == "LOCK") {
    return "is the lock of the directory";
  }
  while (true) {
    const size_t slash = name.find('/');
    const std::string_view fault = FaultOfPart(name.substr(0, slash));
    if (!fault.empty() || slash == std::string_view::npos) {
      return fault;
    }
    name.remove_prefix(slash + 1);
  }
}

}  // namespace

absl::Status CheckFileName(std::string_view name) {
  const std::string_view fault = FaultOfName(name);
  if (!fault.empty()) {
    return error::InvalidArgument("file name '{}' {}; use a relative path such as 'a/b'",
                                  name.substr(0, kFileNamePartBytesMax), fault);
  }
  return absl::OkStatus();
}

absl::Status CheckFilePrefix(std::string_view prefix) {
  return prefix.empty() ? absl::OkStatus() : CheckFileName(prefix);
}

absl::Status CheckFileWrite(std::string_view name, uint64_t bytes) {
  if (bytes > kFileBytesMax) {
    return error::InvalidArgument("file '{}' would have {} bytes; the limit is {}: split it",
                                  name.substr(0, kFileNamePartBytesMax), bytes, kFileBytesMax);
  }
  return CheckFileName(name);
}

}  // namespace gemel
