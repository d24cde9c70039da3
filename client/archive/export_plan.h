// SPDX-License-Identifier: Apache-2.0
//
// From the layouts of all shards to the files of an export. The same snapshot gives the same plan,
// so an interrupted export goes on where it was.
//
//   model*.safetensors    tensors; of a Checkpointer's snapshot those named "model/…", without that
//   optim*.safetensors    of a Checkpointer's snapshot those named "optim/…", without that
//   values*.safetensors   runs of bytes as U8, "values/rank@3" of rank 3, and "layout@3", its table
//   GROUP.safetensors.index.json   which tensor is in which file, when a group has several
//
// Thread safety: values; PlanExport() reads from the source.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "client/archive/pieces.h"
#include "client/archive/safetensors.h"
#include "client/archive/snapshot_source.h"

namespace gemel::archive {

constexpr uint64_t kExportFileBytes = 4 * kGiB;  // a tensor that is larger has a file of its own
constexpr uint64_t kExportHeaderBytes = 16 * kMiB;

inline constexpr const char* kLayoutPrefix = "layout@";

// A piece of a tensor where it was saved.
struct PieceSource {
  uint32_t shard = 0;
  uint64_t data_offset = 0;
  Box box;
};

// A tensor with all its pieces: they cover it exactly.
struct TensorSource {
  std::string name;  // as in the shards
  Dtype dtype = Dtype::kNone;
  std::vector<PieceSource> pieces;
};

struct PlannedFile {
  std::string name;
  std::string prefix;
  std::string text;                   // of a file that is no safetensors file; then no tensors
  safetensors::Header header;         // placed
  std::vector<TensorSource> sources;  // by tensor of the header

  uint64_t bytes() const { return text.empty() ? header.file_bytes() : text.size(); }
};

struct ExportPlan {
  std::vector<PlannedFile> files;
  std::vector<std::string> warnings;

  uint64_t bytes() const;
};

// DataLoss, naming tensor or shard, when the layouts do not belong together, or pieces leave holes
// or overlap. `file_bytes` is kExportFileBytes but in tests.
absl::StatusOr<ExportPlan> PlanExport(SnapshotSource* source,
                                      uint64_t file_bytes = kExportFileBytes);

// The layouts of all shards, by rank, checked against each other and against the manifest.
absl::StatusOr<std::vector<ShardLayout>> ReadLayouts(SnapshotSource* source);

}  // namespace gemel::archive
