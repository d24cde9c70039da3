// SPDX-License-Identifier: Apache-2.0
#include "client/archive/shard_plan.h"

#include <algorithm>
#include <array>
#include <map>

#include "client/archive/export_plan.h"
#include "client/archive/export_reader.h"
#include "client/archive/safetensors.h"
#include "client/archive/tensor_window.h"
#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "common/xxh3.h"

namespace gemel::archive {
namespace {

struct Found {
  StoredTensor place;
  Dtype dtype = Dtype::kNone;
  std::vector<uint64_t> shape;
};

using Index = std::map<std::string, Found>;

absl::Status AddFile(ObjectStore* store, const std::string& key, const std::string& prefix,
                     Index* index) {
  GEMEL_ASSIGN_OR_RETURN(const safetensors::Header header, ReadHeader(store, key));
  for (const safetensors::Tensor& tensor : header.tensors) {
    Found found{{key, header.data_begin + tensor.begin}, tensor.dtype, tensor.shape};
    const auto [at, added] = index->emplace(prefix + tensor.name, std::move(found));
    if (!added) {
      return error::InvalidArgument("tensor '{}' is in {} and in {}", at->first,
                                    store->Where(at->second.place.key), store->Where(key));
    }
  }
  return absl::OkStatus();
}

// The whole of what `entry` is a piece of; DataLoss when it is not there as the layout says.
absl::StatusOr<StoredTensor> Find(const Index& index, const LayoutEntry& entry, uint32_t rank) {
  const std::string name = entry.is_tensor() ? entry.name : fmt::format("{}@{}", entry.name, rank);
  std::vector<uint64_t> shape;
  for (const Dim& dim : entry.dims) {
    shape.push_back(dim.full);
  }
  if (!entry.is_tensor()) {
    shape = {entry.data_bytes};
  }
  const Dtype dtype = entry.is_tensor() ? entry.dtype : Dtype::kUint8;
  const auto found = index.find(name);
  if (found == index.end()) {
    return error::DataLoss("'{}' of shard {} is in no file of the export", name, rank);
  }
  if (found->second.dtype != dtype || found->second.shape != shape) {
    return error::DataLoss("'{}' of shard {} lies in {} with another dtype or shape", name, rank,
                           found->second.place.key);
  }
  return found->second.place;
}

absl::StatusOr<ShardLayout> ReadLayout(ObjectStore* store, const Index& index,
                                       const SnapshotFacts& facts, uint32_t rank) {
  const std::string name = fmt::format("{}{}", kLayoutPrefix, rank);
  const ShardFacts& shard = facts.shards[rank];
  const auto found = index.find(name);
  if (found == index.end() || found->second.dtype != Dtype::kUint8 ||
      found->second.shape != std::vector<uint64_t>{shard.layout_bytes}) {
    return error::DataLoss("'{}' is in no file of the export, or not with {} bytes", name,
                           shard.layout_bytes);
  }
  std::vector<std::byte> table(shard.layout_bytes);
  GEMEL_RETURN_IF_ERROR(store->Read(found->second.place.key, found->second.place.offset, table));
  absl::StatusOr<ShardLayout> layout = DecodeLayout(table);
  if (!layout.ok()) {
    return Annotate(layout.status(), name);
  }
  if (layout->rank != rank || layout->world_size != facts.shards.size() ||
      layout->shard_bytes != shard.bytes) {
    return error::DataLoss("'{}' says rank {} of {} with {} bytes, {} says {} of {} with {}", name,
                           layout->rank, layout->world_size, layout->shard_bytes, kRecordName, rank,
                           facts.shards.size(), shard.bytes);
  }
  return layout;
}

constexpr uint64_t kZerosBytes = kLayoutAlignBytes;

// The entry's bytes: the piece, cut out of the whole tensor window by window.
absl::Status ReadEntry(ObjectStore* store, const LayoutEntry& entry, const StoredTensor& whole,
                       const std::function<absl::Status(ByteSpan)>& write) {
  const bool tensor = entry.is_tensor();
  const Box box = tensor ? entry.dims : Box{{entry.data_bytes, 0, entry.data_bytes}};
  const uint64_t item = tensor ? ItemBytes(entry.dtype) : 1;
  const uint64_t step = kWindowBytes / item;
  const std::optional<uint64_t> elements = TensorElements(box);
  GEMEL_CHECK(elements.has_value()) << entry.name;
  std::vector<std::byte> window;
  std::vector<std::byte> piece;
  uint64_t done = 0;
  const uint64_t all = BoxElements(box);
  while (done < all) {
    // The window begins with the next element of the piece: what lies between pieces is not read.
    uint64_t begin = 0;
    ForEachRun(box, done, done + 1, [&](const Run& run) { begin = run.tensor; });
    const uint64_t end = std::min(*elements, begin + step);
    const uint64_t last = ElementsBefore(box, end);
    GEMEL_CHECK_GT(last, done) << entry.name;
    uint64_t used = 0;
    ForEachRun(box, last - 1, last, [&](const Run& run) { used = run.tensor + 1; });
    window.resize((used - begin) * item);
    GEMEL_RETURN_IF_ERROR(store->Read(whole.key, whole.offset + begin * item, window));
    piece.resize((last - done) * item);
    Gather(box, done, last, item, piece, begin, window);
    GEMEL_RETURN_IF_ERROR(write(piece));
    done = last;
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t ImportPlan::bytes() const {
  uint64_t total = 0;
  for (const ShardPlan& shard : shards) {
    total += shard.layout.shard_bytes;
  }
  return total;
}

absl::StatusOr<ImportPlan> PlanShards(ObjectStore* store, const std::string& prefix,
                                      const ExportRecord& record) {
  Index index;
  for (const FileFacts& file : record.files) {
    if (file.name.ends_with(".safetensors")) {
      GEMEL_RETURN_IF_ERROR(AddFile(store, prefix + file.name, file.prefix, &index));
    }
  }
  ImportPlan plan;
  plan.snapshot = record.snapshot;
  for (uint32_t rank = 0; rank < record.snapshot.shards.size(); ++rank) {
    ShardPlan& shard = plan.shards.emplace_back();
    GEMEL_ASSIGN_OR_RETURN(shard.layout, ReadLayout(store, index, record.snapshot, rank));
    for (const LayoutEntry& entry : shard.layout.entries) {
      if (entry.data_bytes == 0 && entry.is_tensor()) {
        shard.sources.emplace_back();  // a piece without elements is in no file
        continue;
      }
      GEMEL_ASSIGN_OR_RETURN(StoredTensor source, Find(index, entry, rank));
      shard.sources.push_back(std::move(source));
    }
  }
  return plan;
}

absl::StatusOr<ImportPlan> PlanForeign(ObjectStore* store, const std::vector<std::string>& keys) {
  Index index;
  for (const std::string& key : keys) {
    GEMEL_RETURN_IF_ERROR(AddFile(store, key, "", &index));
  }
  ImportPlan plan;
  ShardPlan& shard = plan.shards.emplace_back();
  for (const auto& [name, found] : index) {
    LayoutEntry entry{name, found.dtype, {}, 0, ItemBytes(found.dtype)};
    for (const uint64_t size : found.shape) {
      entry.dims.push_back({size, 0, size});
      entry.data_bytes *= size;  // the reader has checked that it fits
    }
    if (entry.data_bytes > 0) {
      shard.layout.entries.push_back(std::move(entry));
      shard.sources.push_back(found.place);
    }
  }
  GEMEL_RETURN_IF_ERROR(PlaceEntries(&shard.layout));
  // Nobody else has a part of this layout: any digest of it will do.
  const Digest128 hash = Xxh3_128(AsBytes(EncodeLayout(shard.layout)));
  EncodeDigest(hash, shard.layout.layout_hash.data());
  return plan;
}

absl::Status ReadShard(ObjectStore* store, const ShardPlan& shard,
                       const std::function<absl::Status(ByteSpan)>& write) {
  GEMEL_CHECK_EQ(shard.sources.size(), shard.layout.entries.size());
  static constexpr std::array<std::byte, kZerosBytes> kZeros{};
  const std::string table = EncodeLayout(shard.layout);
  GEMEL_RETURN_IF_ERROR(write(AsBytes(table)));
  uint64_t end = table.size();
  for (size_t i = 0; i < shard.sources.size(); ++i) {
    const LayoutEntry& entry = shard.layout.entries[i];
    GEMEL_CHECK_LT(entry.data_offset - end, kZerosBytes) << entry.name;
    if (entry.data_offset > end) {
      GEMEL_RETURN_IF_ERROR(write(ByteSpan(kZeros).first(entry.data_offset - end)));
    }
    GEMEL_RETURN_IF_ERROR(ReadEntry(store, entry, shard.sources[i], write));
    end = entry.data_offset + entry.data_bytes;
  }
  GEMEL_CHECK_EQ(end, shard.layout.shard_bytes);
  return absl::OkStatus();
}

}  // namespace gemel::archive
