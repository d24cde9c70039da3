// SPDX-License-Identifier: Apache-2.0
//
// Export: one snapshot as files of an ObjectStore that other tools read.
//
// Order, which makes a crash at any moment harmless: journal (which snapshot this will be), each
// file, the journal with it, …, gemel.json, journal removed. An export without gemel.json is not
// one. A later run of the same snapshot goes on: a file that the journal names is read back and
// kept when its digest is right.
//
// Memory: two windows of kWindowBytes, beside what the store and the client library take.
// Thread safety: one thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "client/archive/export_plan.h"
#include "client/archive/object_store.h"
#include "client/archive/pace.h"

namespace gemel::archive {

constexpr uint64_t kWindowBytes = 32 * kMiB;

// Bytes done of all bytes, and what is being done: "writing model.safetensors".
using Watcher = std::function<void(uint64_t done, uint64_t total, const std::string& what)>;

struct ExportOptions {
  std::string prefix;  // of all keys: "" or "a/b/"
  bool force = false;  // over another export or other files
  uint64_t file_bytes = kExportFileBytes;
};

struct ExportResult {
  ExportRecord record;
  uint64_t bytes = 0;
  uint64_t kept_bytes = 0;  // of files that an earlier run had written
  bool was_complete = false;
  std::vector<std::string> warnings;
};

// FailedPrecondition when something else is there (way out: force), Cancelled when asked to end;
// what is whole stays for the next run.
absl::StatusOr<ExportResult> Export(SnapshotSource* source, ObjectStore* store, Pace* pace,
                                    const ExportOptions& options, const Watcher& watcher);

// What people look for before they delete or copy over.
bool IsExportFile(const std::string& name);

}  // namespace gemel::archive
