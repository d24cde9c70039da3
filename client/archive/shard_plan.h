// SPDX-License-Identifier: Apache-2.0
//
// From the files of an export to the shards that they came from.
//
// Thread safety: values; functions read from the store.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "client/archive/export_record.h"
#include "client/archive/layout.h"
#include "client/archive/object_store.h"

namespace gemel::archive {

// Where the whole tensor (or run of bytes) lies that an entry of a layout is a piece of.
struct StoredTensor {
  std::string key;
  uint64_t offset = 0;  // within the file
};

struct ShardPlan {
  ShardLayout layout;
  std::vector<StoredTensor> sources;  // by entry
};

struct ImportPlan {
  SnapshotFacts snapshot;  // job and name are empty for files of others
  std::vector<ShardPlan> shards;

  uint64_t bytes() const;
};

// The shards of an export whose record is `record`. DataLoss, naming file, tensor or rank, when the
// files do not hold what the layouts name.
absl::StatusOr<ImportPlan> PlanShards(ObjectStore* store, const std::string& prefix,
                                      const ExportRecord& record);

// One shard of all tensors of the safetensors files `keys`. InvalidArgument when a name is in two.
absl::StatusOr<ImportPlan> PlanForeign(ObjectStore* store, const std::vector<std::string>& keys);

// Gives the shard's bytes to `write`, front to back, in windows.
absl::Status ReadShard(ObjectStore* store, const ShardPlan& shard,
                       const std::function<absl::Status(ByteSpan)>& write);

}  // namespace gemel::archive
