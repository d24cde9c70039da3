// SPDX-License-Identifier: Apache-2.0
#include "server/recovery.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "common/xxh3.h"
#include "placement/model/records.h"
#include "server/limits.h"

namespace gemel {

Recovery::Recovery(const ServerSeams& seams) : seams_(seams) {
  GEMEL_CHECK(seams.loop != nullptr && seams.host != nullptr && seams.events != nullptr);
}

Task<absl::Status> Recovery::Take(Keeper::Taker taker, uint64_t slab_bytes) {
  GEMEL_CHECK(former_.life == 0 && pool_ == nullptr) << "taken twice";
  if (seams_.keeper == nullptr) {
    co_return absl::OkStatus();
  }
  GEMEL_CO_ASSIGN_OR_RETURN(taker.process, seams_.host->OwnProcess());
  const ServerId server = taker.server;
  GEMEL_CO_ASSIGN_OR_RETURN(const std::vector<KeptItem> items,
                            co_await seams_.keeper->Take(std::move(taker)));
  co_return ReadDirectory(items, server, slab_bytes);
}

// The newest directory that can be read; the items it does not name are stale.
absl::Status Recovery::ReadDirectory(const std::vector<KeptItem>& items, const ServerId& server,
                                     uint64_t slab_bytes) {
  absl::StatusOr<SlabDirectoryContent> content = error::NotFound("no directory was kept");
  for (auto item = items.rbegin(); item != items.rend(); ++item) {
    if (item->name.kind != KeptKind::kDirectory) {
      continue;
    }
    stale_.push_back(item->name);
    last_life_ = std::max(last_life_, item->name.number);
    if (!content.ok()) {
      content = ReadOne(*item);
    }
  }
  if (!content.ok()) {
    for (const KeptItem& item : items) {
      if (item.name.kind != KeptKind::kDirectory) {
        stale_.push_back(item.name);
      }
    }
    if (!items.empty()) {
      seams_.events->Emit(Severity::kError, "former_memory_refused",
                          fmt::format("{} items of a former life are dropped: {}", items.size(),
                                      ToText(content.status())));
    }
    return absl::OkStatus();
  }
  const SlabDirectoryHeader& header = content->header;
  if (header.server != server) {
    return error::FailedPrecondition("{} keeps memory of server {}, this is {}: give each its own",
                                     seams_.keeper->Where(), header.server.ToShort(),
                                     server.ToShort());
  }
  if (header.slab_bytes != slab_bytes) {
    return error::FailedPrecondition(
        "{} keeps memory of this server in slabs of {} bytes, and it was started with slabs of {}: "
        "start it with --slab-bytes {}, or end its keeper to drop what it keeps",
        seams_.keeper->Where(), header.slab_bytes, slab_bytes, header.slab_bytes);
  }
  TakeSlabs(*content, items);
  return absl::OkStatus();
}

absl::StatusOr<SlabDirectoryContent> Recovery::ReadOne(const KeptItem& item) const {
  GEMEL_ASSIGN_OR_RETURN(
      const std::unique_ptr<Mapping> head,
      seams_.host->Map(item.handle, kSlabDirectoryHeaderBytes, Access::kRead, false));
  GEMEL_ASSIGN_OR_RETURN(const SlabDirectoryHeader header,
                         DecodeSlabDirectoryHeader(AsText(head->bytes())));
  if (header.life != item.name.number || header.life >= UINT32_MAX || header.slabs > kSlabsMax) {
    return error::InvalidArgument("{} says that it is of life {} and names {} slabs",
                                  item.name.ToString(), header.life, header.slabs);
  }
  const uint64_t bytes = kSlabDirectoryHeaderBytes + uint64_t{header.slabs} * kSlabEntryBytes;
  GEMEL_ASSIGN_OR_RETURN(const std::unique_ptr<Mapping> whole,
                         seams_.host->Map(item.handle, bytes, Access::kRead, false));
  return ReadSlabDirectory(whole->bytes());
}

// Slabs are numbered from 0 without gaps: one whose memory nobody kept is in its place, empty.
void Recovery::TakeSlabs(const SlabDirectoryContent& content, const std::vector<KeptItem>& items) {
  std::map<uint64_t, std::shared_ptr<SharedHandle>> memories;
  for (const KeptItem& item : items) {
    if (item.name.kind == KeptKind::kClient) {
      former_.clients.emplace(item.name.number, item.handle);
    } else if (item.name.kind == KeptKind::kSlab && item.name.number < content.header.slabs) {
      memories.emplace(item.name.number, item.handle);
    } else if (item.name.kind == KeptKind::kSlab) {
      stale_.push_back(item.name);
    }
  }
  former_.life = content.header.life;
  former_.slabs.resize(memories.empty() ? 0 : memories.rbegin()->first + 1);
  for (const auto& [slab, memory] : memories) {
    former_.slabs[slab].memory = memory;
  }
  for (const SlabEntry& entry : content.entries) {
    if (entry.slab < former_.slabs.size()) {
      former_.slabs[entry.slab].entry = entry;
      former_.slabs[entry.slab].torn = entry.holder == kUnknownHolder;
    }
  }
  for (const uint32_t slab : content.torn) {
    if (slab < former_.slabs.size()) {
      former_.slabs[slab].torn = true;
      seams_.events->Emit(
          Severity::kError, "slab_entry_torn",
          fmt::format("slab {}: its entry in the directory cannot be read, what lay in it is "
                      "dropped",
                      slab));
    }
  }
}

Task<void> Recovery::Keep(std::shared_ptr<SlabPool> pool) {
  GEMEL_CHECK(pool_ == nullptr && pool != nullptr);
  pool_ = std::move(pool);
  Keeper* const keeper = seams_.keeper;
  if (keeper == nullptr) {
    co_return;
  }
  pool_->OnAdded([this, keeper](uint32_t slab) {
    const KeptName name{KeptKind::kSlab, slab};
    seams_.loop->Spawn(GiveLater(keeper, KeptItem{name, pool_->memory(slab)}));
  });
  pool_->OnForgotten([keeper](HolderKey holder) { keeper->Forget({{KeptKind::kClient, holder}}); });
  std::vector<KeptItem> items;
  for (uint32_t slab = 0; slab < pool_->slabs(); ++slab) {
    items.push_back({{KeptKind::kSlab, slab}, pool_->memory(slab)});
  }
  items.push_back({{KeptKind::kDirectory, pool_->life()}, pool_->directory_memory()});
  const absl::Status given = co_await keeper->Give(std::move(items));
  if (!given.ok()) {
    // The keeper that comes back gets everything, and has nothing of the former life.
    seams_.events->Emit(Severity::kWarning, "keeper_lost", ToText(given));
  }
  keeper->Forget(std::exchange(stale_, {}));
}

Task<void> Recovery::GiveLater(Keeper* keeper, KeptItem item) {
  std::vector<KeptItem> items(1, std::move(item));
  const absl::Status given = co_await keeper->Give(std::move(items));
  given.IgnoreError();  // told by the keeper's Run(), which gives it again
}

Task<void> Recovery::GiveClient(HolderKey holder, std::shared_ptr<SharedHandle> process) {
  GEMEL_CHECK(holder != kServerHolder && process != nullptr);
  if (seams_.keeper == nullptr) {
    co_return;
  }
  std::vector<KeptItem> items(1);
  items[0].name = {KeptKind::kClient, holder};
  items[0].handle = std::move(process);
  const absl::Status given = co_await seams_.keeper->Give(std::move(items));
  given.IgnoreError();  // without a keeper a slab of this client outlives no server's process
}

// `extents` are slabs of one object, by offset.
bool Recovery::Claim(const std::vector<uint32_t>& extents, FormerObject* object) const {
  GEMEL_CHECK(!extents.empty());
  const SlabEntry& first = former_.slabs[extents.front()].entry;
  uint64_t offset = 0;
  for (const uint32_t slab : extents) {
    const SlabEntry& entry = former_.slabs[slab].entry;
    const uint64_t left = first.object_bytes - offset;
    const bool fits = entry.offset == offset && entry.object_bytes == first.object_bytes &&
                      entry.layout_bytes == first.layout_bytes && entry.token == first.token &&
                      entry.root == first.root && entry.slab_class == first.slab_class &&
                      entry.length == std::min(left, pool_->slab_bytes());
    if (!fits) {
      return false;
    }
    offset += entry.length;
  }
  object->shape.shard = first.shard;
  object->shape.token = first.token;
  object->shape.bytes = first.object_bytes;
  object->shape.layout_bytes = first.layout_bytes;
  object->slab_class = first.slab_class;
  object->root = first.root;
  object->slabs = extents;
  return offset == first.object_bytes && offset > 0 && first.layout_bytes <= offset;
}

// Objects whose extents are all there; slabs of the others are given back.
std::vector<Recovery::FormerObject> Recovery::Assemble() {
  std::map<ShardId, std::map<uint64_t, uint32_t>> extents;  // slab by offset
  std::map<ShardId, std::vector<uint32_t>> doubled;
  for (uint32_t slab = 0; slab < former_.slabs.size(); ++slab) {
    if (pool_->state(slab) == SlabState::kInUse) {
      const SlabEntry& entry = former_.slabs[slab].entry;
      const bool fresh = extents[entry.shard].emplace(entry.offset, slab).second;
      if (!fresh) {
        doubled[entry.shard].push_back(slab);
      }
    }
  }
  std::vector<FormerObject> objects;
  for (const auto& [shard, by_offset] : extents) {
    std::vector<uint32_t> slabs;
    for (const auto& [offset, slab] : by_offset) {
      slabs.push_back(slab);
    }
    FormerObject object;
    const std::vector<uint32_t>& more = doubled[shard];
    if (!shard.snapshot.job.empty() && more.empty() && Claim(slabs, &object)) {
      objects.push_back(std::move(object));
      continue;
    }
    slabs.insert(slabs.end(), more.begin(), more.end());
    for (const uint32_t slab : slabs) {
      pool_->Release(slab);
    }
    ++dropped_;
    seams_.events->Emit(Severity::kError, "former_object_dropped",
                        fmt::format("{}: its {} slabs do not make one sealed object",
                                    shard.ToString(), slabs.size()));
  }
  return objects;
}

// The manifest on this disk, if there is one, names the same root.
Task<absl::Status> Recovery::CheckCommitted(const FormerObject& former, Identity* identity) {
  const ShardId shard = former.shape.shard;
  const Digest128 root = former.root;
  for (const std::string& raw : identity->records()) {
    const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(raw);
    if (!record.ok() || record->snapshot != shard.snapshot) {
      continue;
    }
    const SnapshotId snapshot = shard.snapshot;
    const absl::StatusOr<std::string> read =
        co_await identity->ReadManifest(snapshot, record->manifest_root);
    if (!read.ok()) {
      co_return absl::OkStatus();  // the disk's trouble: the directory's root has to do
    }
    GEMEL_CO_ASSIGN_OR_RETURN(const model::Manifest manifest, model::DecodeManifest(*read));
    if (shard.rank >= manifest.shards.size() || manifest.shards[shard.rank].root != root) {
      co_return error::DataLoss("{} has root {} here, committed is another", shard.ToString(),
                                ToHex(root));
    }
  }
  co_return absl::OkStatus();
}

Task<void> Recovery::Hash(std::shared_ptr<Object> object) {
  for (uint32_t chunk = 0; chunk < object->chunks(); ++chunk) {
    object->SetPresent(chunk, Xxh3_128(object->Chunk(chunk)));
    co_await seams_.loop->Yield();
  }
}

Task<void> Recovery::Verify(ObjectTable* objects, Identity* identity) {
  GEMEL_CHECK(pool_ != nullptr && objects->size() == 0);
  if (former_.life == 0) {
    co_return;
  }
  const TimePoint began = seams_.loop->Now();
  const auto unsealed =
      std::count_if(former_.slabs.begin(), former_.slabs.end(), [](const FormerSlab& slab) {
        return !slab.torn && slab.entry.state == SlabState::kInUse && !slab.entry.sealed;
      });
  uint64_t bytes = 0;
  uint32_t kept = 0;
  const std::vector<FormerObject> found = Assemble();
  for (const FormerObject& former : found) {
    std::shared_ptr<Object> object =
        objects->NewFormer(former.shape, former.slab_class, former.root, former.slabs);
    absl::Status believed = co_await CheckCommitted(former, identity);
    if (believed.ok()) {
      co_await Hash(object);
      bytes += former.shape.bytes;
      believed = objects->Adopt(object);
    }
    if (believed.ok()) {
      ++kept;
      continue;
    }
    ++dropped_;
    seams_.metrics->Counter("gemel_chunks_corrupt_total", "Chunks that failed their digest.")
        .Add(1);
    seams_.events->Emit(Severity::kError, "former_object_dropped", ToText(believed));
  }
  seams_.events->Emit(
      Severity::kInfo, "memory_taken_over",
      fmt::format("{} sealed objects ({} bytes, hashed again in {:.0f} ms) of life {} are kept, {} "
                  "are dropped, as are {} slabs that were not sealed; {} client connections are "
                  "known of it",
                  kept, bytes, Milliseconds(seams_.loop->Now() - began), former_.life, dropped_,
                  unsealed, former_.clients.size()));
  former_.slabs.clear();
}

}  // namespace gemel
