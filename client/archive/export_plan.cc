// SPDX-License-Identifier: Apache-2.0
#include "client/archive/export_plan.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::archive {
namespace {

constexpr std::string_view kModel = "model/";
constexpr std::string_view kOptim = "optim/";
constexpr uint64_t kLayoutBytesMax = 256 * kMiB;

struct Group {
  std::string name;
  std::string prefix;
  std::vector<TensorSource> tensors;  // by rising name
};

absl::Status CheckTogether(const ShardLayout& layout, const ShardLayout& first, uint32_t rank,
                           const SnapshotFacts& facts) {
  const size_t world_size = facts.shards.size();
  if (layout.rank != rank || layout.world_size != world_size) {
    return error::DataLoss("{}: shard {} of {} says it is {} of {}", facts.ToString(), rank,
                           world_size, layout.rank, layout.world_size);
  }
  if (layout.layout_hash != first.layout_hash) {
    return error::DataLoss("{}: shard {} has another layout hash than shard 0", facts.ToString(),
                           rank);
  }
  if (layout.shard_bytes != facts.shards[rank].bytes) {
    return error::DataLoss("{}: shard {} has {} bytes by its layout, {} are kept", facts.ToString(),
                           rank, layout.shard_bytes, facts.shards[rank].bytes);
  }
  return absl::OkStatus();
}

// Adds a piece; one that is there already (replicas that could not know of each other) is left out.
absl::Status AddPiece(const LayoutEntry& entry, uint32_t shard, TensorSource* tensor) {
  if (tensor->pieces.empty()) {
    tensor->name = entry.name;
    tensor->dtype = entry.dtype;
  }
  const Box& first = tensor->pieces.empty() ? entry.dims : tensor->pieces[0].box;
  bool same = first.size() == entry.dims.size() && tensor->dtype == entry.dtype;
  for (size_t i = 0; same && i < first.size(); ++i) {
    same = first[i].full == entry.dims[i].full;
  }
  if (!same) {
    return error::DataLoss("tensor '{}': shard {} has it with another dtype or shape than shard {}",
                           entry.name, shard, tensor->pieces[0].shard);
  }
  tensor->pieces.push_back({shard, entry.data_offset, entry.dims});
  return absl::OkStatus();
}

bool SameBox(const PieceSource& a, const PieceSource& b) { return a.box == b.box; }

bool BoxBefore(const PieceSource& a, const PieceSource& b) {
  for (size_t i = 0; i < a.box.size(); ++i) {
    const auto left = std::pair(a.box[i].offset, a.box[i].size);
    const auto right = std::pair(b.box[i].offset, b.box[i].size);
    if (left != right) {
      return left < right;
    }
  }
  return a.shard < b.shard;
}

absl::Status FinishTensor(TensorSource* tensor) {
  std::vector<PieceSource>& pieces = tensor->pieces;
  std::sort(pieces.begin(), pieces.end(), BoxBefore);
  pieces.erase(std::unique(pieces.begin(), pieces.end(), SameBox), pieces.end());
  std::vector<Box> boxes;
  for (const PieceSource& piece : pieces) {
    boxes.push_back(piece.box);
  }
  return CheckCover(tensor->name, boxes);
}

TensorSource BytesSource(std::string name, uint32_t shard, uint64_t offset, uint64_t bytes) {
  return {std::move(name), Dtype::kUint8, {{shard, offset, Box{{bytes, 0, bytes}}}}};
}

// All tensors by name, and the runs of bytes with the layouts.
absl::Status Collect(const std::vector<ShardLayout>& layouts,
                     std::map<std::string, TensorSource>* tensors,
                     std::map<std::string, TensorSource>* values) {
  for (uint32_t rank = 0; rank < layouts.size(); ++rank) {
    const std::string table = fmt::format("{}{}", kLayoutPrefix, rank);
    (*values)[table] = BytesSource(table, rank, 0, layouts[rank].layout_bytes);
    for (const LayoutEntry& entry : layouts[rank].entries) {
      if (entry.is_tensor() && entry.data_bytes > 0) {
        GEMEL_RETURN_IF_ERROR(AddPiece(entry, rank, &(*tensors)[entry.name]));
      } else if (!entry.is_tensor()) {
        const std::string name = fmt::format("{}@{}", entry.name, rank);
        (*values)[name] = BytesSource(name, rank, entry.data_offset, entry.data_bytes);
      }
    }
  }
  for (auto& [name, tensor] : *tensors) {
    GEMEL_RETURN_IF_ERROR(FinishTensor(&tensor));
  }
  return absl::OkStatus();
}

std::vector<Group> GroupsOf(std::map<std::string, TensorSource> tensors,
                            std::map<std::string, TensorSource> values) {
  // Names lose their prefix only where every name has one: no two names become one.
  const bool split = std::all_of(tensors.begin(), tensors.end(), [](const auto& entry) {
    const std::string& name = entry.first;
    return (name.starts_with(kModel) && name.size() > kModel.size()) ||
           (name.starts_with(kOptim) && name.size() > kOptim.size());
  });
  std::vector<Group> groups(3);
  groups[0] = {"model", split ? std::string(kModel) : "", {}};
  groups[1] = {"optim", std::string(kOptim), {}};
  groups[2] = {"values", "", {}};
  for (auto& [name, tensor] : tensors) {
    groups[split && name.starts_with(kOptim) ? 1 : 0].tensors.push_back(std::move(tensor));
  }
  for (auto& [name, value] : values) {
    groups[2].tensors.push_back(std::move(value));
  }
  return groups;
}

safetensors::Tensor HeaderTensor(const TensorSource& source, const std::string& prefix) {
  GEMEL_CHECK(source.name.starts_with(prefix)) << source.name;
  safetensors::Tensor tensor;
  tensor.name = source.name.substr(prefix.size());
  tensor.dtype = source.dtype;
  for (const Dim& dim : source.pieces[0].box) {
    tensor.shape.push_back(dim.full);
  }
  return tensor;
}

uint64_t BytesOf(const TensorSource& source) {
  GEMEL_CHECK(!source.pieces.empty()) << source.name;
  const std::optional<uint64_t> elements = TensorElements(source.pieces[0].box);
  GEMEL_CHECK(elements.has_value()) << source.name;
  return *elements * ItemBytes(source.dtype);
}

// The tensors of `group` in files of at most `file_bytes` each.
absl::StatusOr<std::vector<PlannedFile>> FilesOf(Group* group, uint64_t file_bytes) {
  std::vector<PlannedFile> files;
  std::map<std::string, TensorSource> sources;  // by name in the file
  uint64_t bytes = 0;
  uint64_t header_bytes = 0;
  for (TensorSource& source : group->tensors) {
    safetensors::Tensor tensor = HeaderTensor(source, group->prefix);
    const uint64_t more = BytesOf(source);
    const uint64_t more_header = safetensors::HeaderBytesOf(tensor);
    if (files.empty() || bytes + more > file_bytes ||
        header_bytes + more_header > kExportHeaderBytes) {
      files.emplace_back();
      bytes = header_bytes = 0;
    }
    bytes += more;
    header_bytes += more_header;
    sources[tensor.name] = std::move(source);
    files.back().header.tensors.push_back(std::move(tensor));
  }
  for (size_t i = 0; i < files.size(); ++i) {
    files[i].name = files.size() == 1 ? fmt::format("{}.safetensors", group->name)
                                      : fmt::format("{}-{:05}-of-{:05}.safetensors", group->name,
                                                    i + 1, files.size());
    files[i].prefix = group->prefix;
    files[i].header.metadata["format"] = "pt";  // some readers refuse a file that does not say so
    GEMEL_RETURN_IF_ERROR(safetensors::Place(&files[i].header));
    for (const safetensors::Tensor& tensor : files[i].header.tensors) {
      files[i].sources.push_back(std::move(sources[tensor.name]));
    }
  }
  return files;
}

// The index that says which tensor is in which of several files.
PlannedFile IndexOf(const std::string& group, const std::vector<PlannedFile>& files) {
  nlohmann::json map = nlohmann::json::object();
  uint64_t total = 0;
  for (const PlannedFile& file : files) {
    total += file.header.data_bytes();
    for (const safetensors::Tensor& tensor : file.header.tensors) {
      map[tensor.name] = file.name;
    }
  }
  const nlohmann::json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
  PlannedFile planned;
  planned.name = group + ".safetensors.index.json";
  planned.text = index.dump(1) + "\n";
  return planned;
}

void Warn(const std::vector<PlannedFile>& files, std::vector<std::string>* warnings) {
  for (const PlannedFile& file : files) {
    for (const safetensors::Tensor& tensor : file.header.tensors) {
      if (!safetensors::HasDtype(tensor.dtype)) {
        warnings->push_back(
            fmt::format("'{}' is {}, which safetensors does not have: it is kept as U8, the dtype "
                        "in __metadata__ of {}",
                        tensor.name, DtypeName(tensor.dtype), file.name));
      }
    }
  }
}

}  // namespace

uint64_t ExportPlan::bytes() const {
  uint64_t total = 0;
  for (const PlannedFile& file : files) {
    total += file.bytes();
  }
  return total;
}

absl::StatusOr<std::vector<ShardLayout>> ReadLayouts(SnapshotSource* source) {
  const SnapshotFacts& facts = source->facts();
  std::vector<ShardLayout> layouts;
  for (uint32_t rank = 0; rank < facts.shards.size(); ++rank) {
    const ShardFacts& shard = facts.shards[rank];
    if (shard.layout_bytes == 0 || shard.layout_bytes > kLayoutBytesMax) {
      return error::FailedPrecondition(
          "{}: shard {} has a layout of {} bytes: it was not saved by gemel.torch, and nothing "
          "says "
          "what its bytes are",
          facts.ToString(), rank, shard.layout_bytes);
    }
    std::vector<std::byte> table(shard.layout_bytes);
    const Range range{rank, 0, table.size(), table.data()};
    GEMEL_RETURN_IF_ERROR(source->Read(std::span(&range, 1)));
    absl::StatusOr<ShardLayout> layout = DecodeLayout(table);
    if (!layout.ok()) {
      return Annotate(layout.status(), fmt::format("{}: shard {}", facts.ToString(), rank));
    }
    layouts.push_back(std::move(*layout));
    GEMEL_RETURN_IF_ERROR(CheckTogether(layouts.back(), layouts[0], rank, facts));
  }
  return layouts;
}

absl::StatusOr<ExportPlan> PlanExport(SnapshotSource* source, uint64_t file_bytes) {
  GEMEL_CHECK(source != nullptr);
  GEMEL_CHECK_GT(file_bytes, 0U);
  GEMEL_ASSIGN_OR_RETURN(const std::vector<ShardLayout> layouts, ReadLayouts(source));
  std::map<std::string, TensorSource> tensors;
  std::map<std::string, TensorSource> values;
  GEMEL_RETURN_IF_ERROR(Collect(layouts, &tensors, &values));
  ExportPlan plan;
  std::vector<Group> groups = GroupsOf(std::move(tensors), std::move(values));
  for (Group& group : groups) {
    GEMEL_ASSIGN_OR_RETURN(std::vector<PlannedFile> files, FilesOf(&group, file_bytes));
    Warn(files, &plan.warnings);
    if (files.size() > 1) {
      files.push_back(IndexOf(group.name, files));
    }
    std::move(files.begin(), files.end(), std::back_inserter(plan.files));
  }
  return plan;
}

}  // namespace gemel::archive
