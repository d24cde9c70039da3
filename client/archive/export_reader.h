// SPDX-License-Identifier: Apache-2.0
//
// Reading exports back: the record, and every byte against its digest.
//
// Thread safety: one thread. Memory: one window.
#pragma once

#include <string>

#include "absl/status/statusor.h"

#include "client/archive/export_record.h"
#include "client/archive/exporter.h"
#include "client/archive/object_store.h"

namespace gemel::archive {

// gemel.json below `prefix`. NotFound, saying what is there instead, when the export is not
// complete or there is none.
absl::StatusOr<ExportRecord> ReadRecord(ObjectStore* store, const std::string& prefix);

// DataLoss, naming the file, both sizes or both digests, when it is not what the record says.
absl::Status VerifyFile(ObjectStore* store, Pace* pace, const std::string& prefix,
                        const FileFacts& file, const std::function<void(uint64_t)>& progressed);

// All files of the record.
absl::Status VerifyExport(ObjectStore* store, Pace* pace, const std::string& prefix,
                          const ExportRecord& record, const Watcher& watcher);

// The header of a safetensors file.
absl::StatusOr<safetensors::Header> ReadHeader(ObjectStore* store, const std::string& key);

}  // namespace gemel::archive
