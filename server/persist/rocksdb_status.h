// SPDX-License-Identifier: Apache-2.0
//
// RocksDB's statuses as ours: the one place of this adapter where they are converted.
//
// Thread safety: pure.
#pragma once

#include <string_view>

#include "absl/status/status.h"

namespace rocksdb {
class Status;
}  // namespace rocksdb

namespace gemel {

// OK; ResourceExhausted: no space; DataLoss: damaged or missing; FailedPrecondition: another
// process has it open; Unavailable: the disk failed. `place` is the folder.
absl::Status FromRocksdb(const rocksdb::Status& status, std::string_view place,
                         std::string_view what);

}  // namespace gemel
