// SPDX-License-Identifier: Apache-2.0
//
// Faults of links, memory and disks.
#include <fmt/format.h>

#include <algorithm>

#include "common/check.h"
#include "tests/sim/strikes.h"

namespace gemel::sim {
namespace {

constexpr uint64_t kBitsPerByte = 8;
constexpr uint64_t kStoresLostMax = 2;     // of one run
constexpr Duration kAcceptLossAfter = 4s;  // of a recovery that comes to no end

}  // namespace

void Strikes::Partition() {
  const std::vector<std::string> nodes = Nodes();
  const std::optional<uint32_t> victim = PickUp();
  if (!victim.has_value()) {
    return;
  }
  const std::vector<std::string> alone = {Cluster::HostOf(*victim)};
  std::vector<std::string> others;
  std::copy_if(nodes.begin(), nodes.end(), std::back_inserter(others),
               [&alone](const std::string& node) { return node != alone[0]; });
  const uint64_t kind = random_->Below(3);
  Note(fmt::format("partition of {} kind {}", alone[0], kind));
  cut_ = Fault::kPartition;
  if (kind == 0) {
    cluster_->world()->Partition(alone, others);
  } else {
    cluster_->world()->PartitionOneWay(kind == 1 ? alone : others, kind == 1 ? others : alone);
  }
  Later(After(100, 2500), [this] { cluster_->world()->Heal(); });
}

// Two halves, and one node that both see. Placement is in one of them, or is the bridge.
void Strikes::Bridge() {
  std::vector<std::string> nodes = Nodes();
  if (nodes.size() < 3) {
    return;
  }
  std::swap(nodes[0], nodes[random_->Below(nodes.size())]);
  std::vector<std::string> halves[2];
  for (size_t i = 1; i < nodes.size(); ++i) {
    halves[i == 1 ? 0 : i == 2 ? 1 : random_->Below(2)].push_back(nodes[i]);
  }
  Note(fmt::format("{} is the bridge between two halves", nodes[0]));
  cut_ = Fault::kBridge;
  cluster_->world()->Partition(halves[0], halves[1]);
  Later(After(100, 2500), [this] { cluster_->world()->Heal(); });
}

void Strikes::Clog() {
  const std::vector<std::string> nodes = Nodes();
  const size_t from = random_->Below(nodes.size());
  const size_t to = (from + 1 + random_->Below(nodes.size() - 1)) % nodes.size();
  Note(fmt::format("clog {} > {}", nodes[from], nodes[to]));
  clog_ = Fault::kClog;
  cluster_->world()->Faults(nodes[from], nodes[to]).clogged_until = After(100, 1500);
}

void Strikes::Swizzle() {
  const std::vector<std::string> nodes = Nodes();
  Note("swizzled clogs");
  clog_ = Fault::kSwizzle;
  for (const std::string& from : nodes) {
    for (const std::string& to : nodes) {
      if (from == to || !random_->Chance(1, 2)) {
        continue;
      }
      const TimePoint until = After(200, 1800);
      Soon(After(0, 700), [this, from, to, until] {
        LinkFaults& faults = cluster_->world()->Faults(from, to);
        faults.clogged_until = std::max(faults.clogged_until, until);
      });
    }
  }
}

// One server at a time: each copy that is hit counts as lost with it.
void Strikes::MemoryRot() {
  const std::optional<uint32_t> victim = PickToLose();
  const Server* server = victim.has_value() ? cluster_->ServerAt(*victim) : nullptr;
  if (server == nullptr || !MayHurtDisks()) {
    return;
  }
  const std::vector<std::shared_ptr<Object>> sealed = server->objects().Sealed();
  const uint64_t flips = 1 + random_->Below(4);
  if (sealed.empty()) {
    return;
  }
  Note(fmt::format("{} bits of the memory of {} flip", flips, Cluster::HostOf(*victim)));
  oracle_->MemoryLost(*victim);
  if (random_->Chance(1, 2)) {
    // They are read before anybody else has looked.
    Soon(After(0, 100), [this] {
      for (const std::unique_ptr<SimJob>& job : *jobs_) {
        job->KillTrainers(10ms);
      }
    });
  }
  for (uint64_t i = 0; i < flips; ++i) {
    Struck(Fault::kMemoryRot);
    const std::shared_ptr<Object>& object = sealed[random_->Below(sealed.size())];
    FlipBitOf(object);
  }
}

void Strikes::FlipBitOf(const std::shared_ptr<Object>& object) {
  MutableByteSpan chunk = object->Chunk(static_cast<uint32_t>(random_->Below(object->chunks())));
  const uint64_t bit = random_->Below(chunk.size() * kBitsPerByte);
  oracle_->Damaged(*object);
  chunk[bit / kBitsPerByte] ^= static_cast<std::byte>(1U << (bit % kBitsPerByte));
}

// All copies of one shard, around the time that a launch restores: it begins from the next older
// snapshot, all ranks of it. Only where there is one.
void Strikes::RotEverywhere() {
  const std::unique_ptr<SimJob>& job = (*jobs_)[random_->Below(jobs_->size())];
  const std::string name = job->plan().name;
  if (!oracle_->HasOlder(name) || (!oracle_->overkill() && !MayHurtDisks())) {
    return;
  }
  job->KillTrainers(10ms);
  rotting_ = name;
  if (random_->Chance(1, 2)) {
    WaitFor(CrashPoint::kVerifiedDurable, &Strikes::RotAt);
    waiting_->before = 0;  // others have yet to read
    return;
  }
  Soon(After(0, 60), [this] {
    random_ = &at_points_;
    RotAt(CrashPoint::kVerifiedDurable, nullptr);
    random_ = nullptr;
  });
}

void Strikes::RotAt(CrashPoint /*point*/, const SimLoop* /*loop*/) {
  const std::optional<ShardId> shard = oracle_->ShardOfLatest(rotting_, random_->Next());
  if (!shard.has_value() || !oracle_->HasOlder(rotting_) ||
      (!oracle_->overkill() && !MayHurtDisks())) {
    return;
  }
  Note("every copy of " + shard->ToString() + " decays");
  for (const uint32_t server : Members()) {
    const Server* holder = cluster_->ServerAt(server);
    const std::shared_ptr<Object> object =
        holder == nullptr ? nullptr : holder->objects().Find(*shard);
    if (object != nullptr && object->state() == ObjectState::kSealed) {
      Struck(Fault::kRotEverywhere);
      oracle_->MemoryLost(server);
      FlipBitOf(object);
    }
  }
}

void Strikes::SlowDisks() {
  const std::vector<uint32_t> members = Members();
  const uint64_t one = random_->Below(2 * members.size());
  const auto factor = static_cast<uint32_t>(10 + random_->Below(140));
  const TimePoint until = After(300, 2500);
  Note(fmt::format("{} is {} times as slow", one < members.size() ? "a disk" : "every disk",
                   factor));
  for (size_t i = 0; i < members.size(); ++i) {
    const uint32_t server = members[i];
    if (one < members.size() && one != i) {
      continue;
    }
    Struck(Fault::kSlowDisks);
    cluster_->disk(server)->set_slowness(factor);
    cluster_->tier(server)->set_slowness(factor);
    Later(until, [this, server] {
      cluster_->disk(server)->set_slowness(1);
      cluster_->tier(server)->set_slowness(1);
    });
  }
}

void Strikes::StoreOutage() {
  SimStoreState* store = cluster_->store();
  const auto manager = static_cast<uint32_t>(random_->Below(3 * uint64_t{cluster_->managers()}));
  if (manager < cluster_->managers()) {
    CutStore(manager);
    return;
  }
  const bool full = random_->Chance(1, 2);
  Note(full ? "the MetaStore is full" : "the MetaStore does not answer");
  Struck(Fault::kStoreOutage);
  (full ? store->full : store->unavailable) = true;
  Later(After(50, 1500), [store, full] { (full ? store->full : store->unavailable) = false; });
}

// Others reach it, and one of them leads soon; clients may still reach this one.
void Strikes::CutStore(uint32_t manager) {
  if (!cluster_->placement_up(manager)) {
    return;
  }
  const uint64_t life = cluster_->PidOfPlacement(manager);
  const bool hangs = random_->Chance(1, 2);
  Note(fmt::format("for {} alone the MetaStore {}", Cluster::ManagerNode(manager),
                   hangs ? "hangs" : "is gone"));
  Struck(Fault::kStoreOutage);
  cluster_->CutStore(manager, !hangs, hangs);
  if (hangs) {
    KillSoon();
  }
  Later(After(200, 4000), [this, manager, life] {
    if (cluster_->placement_up(manager) && cluster_->PidOfPlacement(manager) == life) {
      cluster_->CutStore(manager, false, false);
    }
  });
}

// Its next life joins while commits are under way that counted what the former one had.
void Strikes::KillSoon() {
  const std::optional<uint32_t> victim = PickUp();
  Soon(After(0, 150), [this, victim] {
    if (victim.has_value() && cluster_->server_up(*victim) &&
        (oracle_->overkill() || oracle_->CanLose(*victim))) {
      Note("kill " + Cluster::HostOf(*victim) + " meanwhile");
      Down(*victim, 100ms, true);
      slots_[*victim].restart_at = cluster_->now() + 30ms;
    }
  });
}

// A person ends the managers, gives an empty store, and has them recover from the servers.
void Strikes::LoseStore() {
  const std::vector<uint32_t> members = Members();
  const bool anybody = std::any_of(members.begin(), members.end(),
                                   [this](uint32_t i) { return oracle_->MayRecoverFrom(i); });
  if (stores_lost_ >= kStoresLostMax || cluster_->IsRecovering() || !anybody) {
    return;
  }
  Struck(Fault::kStoreLost);
  stores_lost_ += 1;
  EmptyStore();
  if (random_->Chance(1, 4)) {
    (*jobs_)[random_->Below(jobs_->size())]->KillTrainers(10ms);
  }
}

void Strikes::EmptyStore() {
  Note("the MetaStore is lost");
  for (uint32_t manager = 0; manager < cluster_->managers(); ++manager) {
    if (cluster_->placement_up(manager)) {
      KillManager(manager, After(20, 800));
    }
  }
  cluster_->LoseStore();
  oracle_->StoreLost();
  accept_loss_at_ = Add(cluster_->now(), kAcceptLossAfter);
}

// It waits for servers that are gone for good, and says so.
void Strikes::WatchRecovery() {
  const std::vector<uint32_t> members = Members();
  const bool all_up = std::all_of(members.begin(), members.end(),
                                  [this](uint32_t i) { return cluster_->server_up(i); });
  if (!cluster_->IsRecovering() && !cluster_->LacksGeneration()) {
    accept_loss_at_ = kTimeNever;
  }
  if (cluster_->now() < accept_loss_at_ || !all_up) {
    return;
  }
  Note("the recovery is to accept loss");
  accept_loss_at_ = kTimeNever;
  cluster_->AcceptLoss();
  oracle_->LossAccepted();
  for (uint32_t manager = 0; manager < cluster_->managers(); ++manager) {
    if (cluster_->placement_up(manager)) {
      KillManager(manager, After(20, 100));
    }
  }
}

void Strikes::DiskRot() {
  const std::optional<uint32_t> victim = PickUp();
  if (!victim.has_value() || !MayHurtDisks()) {
    return;
  }
  const auto shards = cluster_->tier(*victim)->Durable();
  const std::vector<std::string> files = cluster_->disk(*victim)->Names();
  oracle_->DiskLost(*victim);
  if (random_->Chance(1, 2) && !shards.empty()) {
    const ShardId& shard = shards[random_->Below(shards.size())].first;
    Note(fmt::format("{} decays on the disk of {}", shard.ToString(), Cluster::HostOf(*victim)));
    Struck(Fault::kDiskRot, cluster_->tier(*victim)->Rot(shard, 0) ? 1 : 0);
    oracle_->DamagedOnDisk(*victim, shard);
  } else if (!files.empty()) {
    const std::string& file = files[random_->Below(files.size())];
    Note(fmt::format("file {} decays on the disk of {}", file, Cluster::HostOf(*victim)));
    Struck(Fault::kDiskRot, cluster_->disk(*victim)->Rot(file) ? 1 : 0);
  }
}

void Strikes::TornWrites() {
  const std::optional<uint32_t> victim = PickUp();
  if (!victim.has_value() || !MayHurtDisks()) {
    return;
  }
  oracle_->DiskLost(*victim);
  Note("the next write of a disk goes wrong: " + Cluster::HostOf(*victim));
  if (random_->Chance(1, 2)) {
    cluster_->disk(*victim)->MisdirectNextWrite();
  } else {
    cluster_->disk(*victim)->TearAtCrash();
  }
}

void Strikes::FsyncErrors() {
  if (const std::optional<uint32_t> victim = PickUp(); victim.has_value()) {
    Note("the next sync fails: " + Cluster::HostOf(*victim));
    if (random_->Chance(1, 2)) {
      cluster_->tier(*victim)->FailNextStep();
    } else {
      cluster_->disk(*victim)->FailNextSync();
    }
  }
}

void Strikes::FullDisk() {
  const std::optional<uint32_t> victim = PickUp();
  if (!victim.has_value()) {
    return;
  }
  const uint32_t server = *victim;
  Note("a full disk: " + Cluster::HostOf(server));
  if (random_->Chance(1, 2)) {
    cluster_->disk(server)->set_full(true);
    Later(After(200, 1500), [this, server] { cluster_->disk(server)->set_full(false); });
  } else {
    SimPersistState* tier = cluster_->tier(server);
    tier->set_capacity_bytes(tier->occupied_bytes() + random_->Below(kMiB / 2));
    Later(After(500, 2500), [tier] { tier->set_capacity_bytes(UINT64_MAX); });
  }
}

void Strikes::HungDisk() {
  if (const std::optional<uint32_t> victim = PickUp(); victim.has_value()) {
    Note("a tier hangs: " + Cluster::HostOf(*victim));
    SimPersistState* tier = cluster_->tier(*victim);
    tier->set_hung(true);
    Later(After(100, 2500), [tier] { tier->set_hung(false); });
  }
}

}  // namespace gemel::sim
