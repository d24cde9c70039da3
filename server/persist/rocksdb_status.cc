// SPDX-License-Identifier: Apache-2.0
#include "server/persist/rocksdb_status.h"

#include <rocksdb/status.h>

#include "common/errors.h"

namespace gemel {

absl::Status FromRocksdb(const rocksdb::Status& status, std::string_view place,
                         std::string_view what) {
  if (status.ok()) {
    return absl::OkStatus();
  }
  const std::string text = status.ToString();
  if (status.IsNoSpace()) {
    return error::ResourceExhausted("the disk below {} is full: {}: {}", place, what, text);
  }
  if (status.IsCorruption() || status.IsPathNotFound() || status.IsNotFound()) {
    return error::DataLoss("below {}: {}: {}", place, what, text);
  }
  if (status.IsIOError() && text.find("lock") != std::string::npos) {
    return error::FailedPrecondition(
        "{} is in use by another gemel-server ({}): stop that one, or give this one another "
        "--persist-dir",
        place, text);
  }
  return error::Unavailable("the disk below {} failed: {}: {}", place, what, text);
}

}  // namespace gemel
