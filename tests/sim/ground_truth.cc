// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/ground_truth.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "common/check.h"
#include "common/errors.h"
#include "placement/manager/stored.h"
#include "placement/model/records.h"

namespace gemel::sim {
namespace {

bool IsIntact(const Object& object) {
  for (uint32_t chunk = 0; chunk < object.chunks(); ++chunk) {
    if (!object.CheckChunk(chunk).ok()) {
      return false;
    }
  }
  return true;
}

// The first `level` components of a domain; all, when it has fewer.
std::string PrefixOf(const std::string& domain, uint32_t level) {
  size_t end = 0;
  for (uint32_t i = 0; i < level && end != std::string::npos; ++i) {
    end = domain.find('/', i == 0 ? 0 : end + 1);
  }
  return domain.substr(0, end);
}

std::string RecordFile(const SnapshotId& snapshot) {
  return fmt::format("records/job-{}/{:020}", snapshot.job, snapshot.sequence);
}

}  // namespace

std::vector<uint32_t> GroundTruth::MemoriesWith(const ShardId& shard) const {
  std::vector<uint32_t> holders;
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    const Server* server = cluster_->ServerAt(i);
    const std::shared_ptr<Object> object =
        server == nullptr ? nullptr : server->objects().Find(shard);
    if (object != nullptr && object->state() == ObjectState::kSealed && cluster_->IsMember(i) &&
        IsIntact(*object)) {
      holders.push_back(i);
    }
  }
  return holders;
}

std::vector<uint32_t> GroundTruth::CopiesOf(const ShardId& shard) const {
  std::vector<uint32_t> holders = MemoriesWith(shard);
  std::erase_if(holders, [&](uint32_t server) {
    return cluster_->ServerAt(server)->objects().Find(shard)->token().IsZero();
  });
  return holders;
}

bool GroundTruth::IsKeptInMemory(const SnapshotId& id) const {
  return cluster_->store()->values.contains(StoredSnapshotKey(id.job, id.epoch, id.sequence));
}

std::vector<uint32_t> GroundTruth::DisksWith(const ShardId& shard) const {
  std::vector<uint32_t> holders;
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    if (!cluster_->IsMember(i)) {
      continue;
    }
    for (const auto& [there, record] : cluster_->tier(i)->Durable()) {
      if (there == shard && cluster_->tier(i)->IsSound(there)) {
        holders.push_back(i);
      }
    }
  }
  return holders;
}

size_t GroundTruth::DisksWithRecord(const SnapshotId& snapshot) const {
  const std::string name = RecordFile(snapshot);
  size_t disks = 0;
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    disks += cluster_->disk(i)->Has(name) ? 1 : 0;
  }
  return disks;
}

bool GroundTruth::MayRetire(const model::CommitRecord& record) const {
  const SnapshotId& id = record.snapshot;
  const auto& values = cluster_->store()->values;
  const std::string key = StoredSnapshotKey(id.job, id.epoch, id.sequence);
  const std::string all = kSnapshotPrefix + id.job + "/";
  uint32_t newer = 0;
  for (auto at = values.upper_bound(key); at != values.end() && at->first.starts_with(all); ++at) {
    newer += 1;
  }
  return record.keep_latest > 0 && newer >= record.keep_latest;
}

uint64_t GroundTruth::NewestWholeOnDisks(const std::string& job) const {
  std::map<SnapshotId, std::set<uint32_t>> ranks;
  uint64_t newest = 0;
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    for (const auto& [shard, bytes] : cluster_->tier(i)->Durable()) {
      const SnapshotId& id = shard.snapshot;
      if (id.job != job || !cluster_->tier(i)->IsSound(shard)) {
        continue;
      }
      const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(bytes);
      GEMEL_CHECK(record.ok()) << shard.ToString();
      ranks[id].insert(shard.rank);
      const bool whole = ranks[id].size() == record->world_size;
      if (whole && IsKeptInMemory(id) && !MayRetire(*record)) {
        newest = std::max(newest, id.sequence);
      }
    }
  }
  return newest;
}

size_t GroundTruth::DomainsOf(const std::vector<uint32_t>& servers, uint32_t level) const {
  std::set<std::string> domains;
  for (const uint32_t index : servers) {
    domains.insert(PrefixOf(cluster_->DomainOf(index), level));
  }
  return domains.size();
}

void GroundTruth::CheckSlabs(uint32_t index, const Server& server,
                             std::vector<std::string>* wrong) const {
  for (const std::shared_ptr<Object>& object : server.objects().Sealed()) {
    for (uint32_t chunk = 0; chunk < object->chunks(); ++chunk) {
      const uint32_t slab = object->SlabOf(chunk);
      if (server.pool().holder(slab) != kServerHolder) {
        continue;
      }
      const auto memory = std::dynamic_pointer_cast<SimMemory>(server.pool().memory(slab));
      GEMEL_CHECK(memory != nullptr) << Cluster::HostOf(index);
      const uint64_t own = cluster_->PidOfServer(index);
      for (const auto& [number, mapping] : memory->mappings) {
        if (mapping.access == Access::kReadWrite && mapping.pid != own) {
          wrong->push_back(
              fmt::format("one writer: slab {} of {} is the server's and holds {}, "
                          "and process {} may write it",
                          slab, Cluster::HostOf(index), object->shard().ToString(), mapping.pid));
        }
      }
    }
  }
}

// Whoever may write a slab is its holder, for as long as it lives.
void GroundTruth::CheckHolders(uint32_t index, const SlabPool& pool,
                               std::vector<std::string>* wrong) const {
  for (uint32_t slab = 0; slab < pool.slabs(); ++slab) {
    const HolderKey holder = pool.holder(slab);
    const uint64_t pid = pool.PidOf(holder);
    if (holder == kUnknownHolder || (pool.holds(holder) && pid == 0)) {
      continue;  // of a former life of the server
    }
    const auto memory = std::dynamic_pointer_cast<SimMemory>(pool.memory(slab));
    GEMEL_CHECK(memory != nullptr) << Cluster::HostOf(index);
    for (const auto& [number, mapping] : memory->mappings) {
      if (mapping.access == Access::kReadWrite && mapping.pid != pid &&
          mapping.pid != cluster_->PidOfServer(index)) {
        wrong->push_back(
            fmt::format("one writer: slab {} of {} is that of process {}, and process "
                        "{} may write it",
                        slab, Cluster::HostOf(index), pid, mapping.pid));
      }
    }
  }
}

std::vector<std::string> GroundTruth::CheckMemory() const {
  std::vector<std::string> wrong;
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    const Server* server = cluster_->ServerAt(i);
    if (server == nullptr) {
      continue;
    }
    const SlabPool& pool = server->pool();
    if (pool.used_bytes() + pool.idle_bytes() > pool.capacity_bytes()) {
      wrong.push_back(fmt::format("budget: {} uses {} and {} idle bytes of {}", Cluster::HostOf(i),
                                  pool.used_bytes(), pool.idle_bytes(), pool.capacity_bytes()));
    }
    std::set<std::pair<const SimMemory*, uint64_t>> writers;
    for (const auto& memory : cluster_->world()->machine(Cluster::HostOf(i))->AllMemories()) {
      for (const auto& [number, mapping] : memory->mappings) {
        if (mapping.access == Access::kReadWrite && mapping.pid != cluster_->PidOfServer(i)) {
          writers.emplace(memory.get(), mapping.pid);
        }
      }
      const auto of_memory = [&memory](const auto& one) { return one.first == memory.get(); };
      if (std::count_if(writers.begin(), writers.end(), of_memory) > 1) {
        wrong.push_back(fmt::format("one writer: two processes may write memory '{}' of {}",
                                    memory->name(), Cluster::HostOf(i)));
      }
    }
    CheckSlabs(i, *server, &wrong);
    CheckHolders(i, pool, &wrong);
  }
  return wrong;
}

// A file that is gone is one whose removal failed after it, which is tried again.
std::string GroundTruth::RecordFault(uint32_t index, const std::string& raw, bool hurt) const {
  const absl::StatusOr<model::CommitRecord> record = model::DecodeCommitRecord(raw);
  GEMEL_CHECK(record.ok()) << Cluster::HostOf(index);
  const SnapshotId& id = record->snapshot;
  const auto stored =
      cluster_->store()->values.find(StoredSnapshotKey(id.job, id.epoch, id.sequence));
  if (stored != cluster_->store()->values.end()) {
    const absl::StatusOr<model::CommitRecord> committed =
        model::DecodeCommitRecord(stored->second.value);
    GEMEL_CHECK(committed.ok()) << stored->first;
    if (committed->snapshot == id && *committed != *record) {
      return fmt::format("verified: {} believes a commit record of {} that was never committed",
                         Cluster::HostOf(index), id.ToString());
    }
  }
  const std::string name = RecordFile(id);
  if (hurt || cluster_->disk(index)->Has(name)) {
    return "";
  }
  const std::vector<std::string> names = cluster_->disk(index)->Names();
  const bool there = std::find(names.begin(), names.end(), name) != names.end();
  return !there ? ""
                : fmt::format("durable: {} counts on the record of {}, and its disk may lose it",
                              Cluster::HostOf(index), id.ToString());
}

std::string GroundTruth::IdentityFault(uint32_t index, const Identity& identity) const {
  if (!identity.is_saved()) {
    return "";
  }
  const IdentityFile known{.server = identity.server(),
                           .cluster = identity.cluster(),
                           .generation = identity.generation(),
                           .term = identity.term(),
                           .epochs = identity.epochs(),
                           .last_members = identity.last_members()};
  const absl::StatusOr<std::string> bytes = cluster_->disk(index)->Durable("identity");
  const absl::StatusOr<IdentityFile> durable =
      bytes.ok() ? DecodeIdentity(*bytes) : absl::StatusOr<IdentityFile>(bytes.status());
  if (durable.ok() && *durable == known) {
    return "";
  }
  return fmt::format("durable: {} counts on what it saved of its identity, and its disk {}",
                     Cluster::HostOf(index),
                     durable.ok() ? "may go back to an older one" : ToText(durable.status()));
}

std::vector<std::string> GroundTruth::CheckDisks(bool hurt) const {
  std::vector<std::string> wrong;
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    for (const std::string& name : cluster_->disk(i)->believed()) {
      wrong.push_back(
          fmt::format("verified: a bit of file {} of {} flipped, and it was read as good", name,
                      Cluster::HostOf(i)));
    }
    const Server* server = cluster_->ServerAt(i);
    if (server == nullptr) {
      continue;
    }
    std::string identity = hurt ? "" : IdentityFault(i, server->identity());
    if (!identity.empty()) {
      wrong.push_back(std::move(identity));
    }
    for (const std::string& raw : server->identity().records()) {
      std::string fault = RecordFault(i, raw, hurt);
      if (!fault.empty()) {
        wrong.push_back(std::move(fault));
      }
    }
  }
  return wrong;
}

std::vector<std::string> GroundTruth::Leftovers() const {
  std::vector<std::string> left;
  for (uint32_t i = 0; i < cluster_->shape().slots(); ++i) {
    const Server* server = cluster_->ServerAt(i);
    if (server == nullptr) {
      continue;
    }
    const size_t uploads = server->uploads().size();
    const size_t restores = server->restores().size();
    const size_t stages = server->stages().size();
    if (uploads + restores + stages > 0) {
      left.push_back(fmt::format("{} still has {} uploads, {} restores, {} stages",
                                 Cluster::HostOf(i), uploads, restores, stages));
    }
  }
  for (const auto& [key, value] : cluster_->store()->values) {
    if (key.starts_with(kOpenPrefix)) {
      left.push_back(fmt::format("the MetaStore still has {}", key));
    }
  }
  return left;
}

}  // namespace gemel::sim
