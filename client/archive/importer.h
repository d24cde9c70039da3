// SPDX-License-Identifier: Apache-2.0
//
// Import: an export back into the cluster as the same shards, byte for byte; or safetensors files
// of others as a snapshot of one shard, each tensor under its name.
//
// Every file of an export is verified against its digest before the cluster is touched. The import
// takes an epoch of the job, which ends whoever has one: a job that is there needs `takeover`. It
// can be repeated: what was not committed leaves nothing.
//
// Memory: two windows. Thread safety: one thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "client/archive/export_record.h"
#include "client/archive/exporter.h"
#include "client/archive/object_store.h"
#include "client/archive/shard_plan.h"
#include "gemel/client.h"

namespace gemel::archive {

struct ImportOptions {
  std::string prefix;
  std::string file;  // only this one, of files of others; empty: all
  std::string job;   // empty: as exported
  std::string name;  // empty: as exported
  bool takeover = false;
  uint32_t copies = 2;
  Client::Strategy strategy = Client::Strategy::kGroup;
  std::vector<Client*> clients;  // shard r goes through client r modulo their number
};

struct ImportResult {
  std::string job;
  std::string name;
  uint64_t sequence = 0;
  uint32_t world_size = 0;
  uint64_t bytes = 0;
};

// What would be imported, with all digests verified.
absl::StatusOr<ImportPlan> PlanImport(ObjectStore* store, Pace* pace, const ImportOptions& options,
                                      const Watcher& watcher);

// FailedPrecondition when the job is there; Cancelled when asked to end. REQUIRES: clients.
absl::StatusOr<ImportResult> Import(ObjectStore* store, Pace* pace, const ImportPlan& plan,
                                    const ImportOptions& options, const Watcher& watcher);

}  // namespace gemel::archive
