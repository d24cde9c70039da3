// SPDX-License-Identifier: Apache-2.0
#include "server/slabs.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "server/limits.h"

namespace gemel {
namespace {

constexpr uint64_t kPageBytes = 4 * kKiB;
constexpr Duration kWarmPause = 1s;

absl::Status CheckSizes(const SlabPool::Options& options) {
  if (options.slab_bytes == 0 || options.slab_bytes % kChunkBytes != 0 ||
      options.slab_bytes > kSlabBytesMax) {
    return error::InvalidArgument(
        "--slab-bytes is {}: it must be a multiple of {} and at most {} bytes", options.slab_bytes,
        kChunkBytes, kSlabBytesMax);
  }
  if (options.memory_bytes < options.slab_bytes) {
    return error::InvalidArgument("--memory is {} bytes: less than one slab of {} (--slab-bytes)",
                                  options.memory_bytes, options.slab_bytes);
  }
  if (options.memory_bytes / options.slab_bytes > kSlabsMax) {
    return error::InvalidArgument(
        "--memory of {} bytes is more than {} slabs of {} bytes: raise --slab-bytes",
        options.memory_bytes, kSlabsMax, options.slab_bytes);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<SlabPool>> SlabPool::Create(const ServerSeams& seams,
                                                           const Options& options) {
  GEMEL_CHECK(seams.loop != nullptr && seams.host != nullptr && seams.metrics != nullptr);
  GEMEL_RETURN_IF_ERROR(CheckSizes(options));
  SlabDirectoryHeader header;
  header.server = options.server;
  header.incarnation = options.incarnation;
  header.life = options.life;
  header.slab_bytes = options.slab_bytes;
  header.slabs = static_cast<uint32_t>(options.memory_bytes / options.slab_bytes);
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<SlabDirectory> directory,
                         SlabDirectory::Create(seams.host, header));
  return std::shared_ptr<SlabPool>(new SlabPool(seams, options, std::move(directory)));
}

SlabPool::SlabPool(const ServerSeams& seams, const Options& options,
                   std::unique_ptr<SlabDirectory> directory)
    : seams_(seams),
      options_(options),
      slabs_max_(static_cast<uint32_t>(options.memory_bytes / options.slab_bytes)),
      directory_(std::move(directory)),
      used_gauge_(
          seams.metrics->Gauge("gemel_memory_used_bytes", "Memory of slabs that hold objects.")),
      idle_gauge_(seams.metrics->Gauge("gemel_memory_idle_bytes",
                                       "Memory that clients keep mapped for a save.")),
      watermark_bytes_(std::min(kWarmBytesFirst, options.memory_bytes)),
      taken_(seams.loop) {
  GEMEL_CHECK_GT(slabs_max_, 0U);
  GEMEL_CHECK(options_.life > 0 && options_.life <= UINT32_MAX) << options_.life;
  seams_.metrics->Gauge("gemel_memory_capacity_bytes", "Memory that this server may keep.")
      .Set(static_cast<int64_t>(capacity_bytes()));
  SetGauges();
}

absl::Status SlabPool::Inherit(const FormerMemory& former) {
  GEMEL_CHECK(slabs_.empty() && living_.empty());
  GEMEL_CHECK_LT(former.life, options_.life);
  if (former.slabs.size() > slabs_max_) {
    return error::FailedPrecondition(
        "a former life of this server left {} slabs of {} bytes and --memory allows {}: start it "
        "with --memory of {} bytes or more, or end its keeper to drop what it keeps",
        former.slabs.size(), options_.slab_bytes, slabs_max_,
        former.slabs.size() * options_.slab_bytes);
  }
  for (const auto& [client, process] : former.clients) {
    GEMEL_CHECK(client != kServerHolder && client != kUnknownHolder) << client;
    living_.emplace(client, 0);
    next_holder_ = std::max(next_holder_, client + 1);
  }
  for (const FormerSlab& slab : former.slabs) {
    const HolderKey holder = slab.torn ? kUnknownHolder : slab.entry.holder;
    const bool known = holder == kServerHolder || holder == kUnknownHolder;
    if (!known && slab.memory != nullptr && !former.clients.contains(holder)) {
      living_.emplace(holder, 0);
      next_holder_ = std::max(next_holder_, holder + 1);
      unproven_ = true;
    }
  }
  if (!former.clients.empty() || unproven_) {
    living_.emplace(kUnknownHolder, 0);
  }
  for (uint32_t slab = 0; slab < former.slabs.size(); ++slab) {
    GEMEL_RETURN_IF_ERROR(InheritSlab(slab, former.slabs[slab]));
  }
  SetGauges();
  return absl::OkStatus();
}

absl::Status SlabPool::InheritSlab(uint32_t slab, const FormerSlab& former) {
  GEMEL_CHECK_EQ(slab, slabs_.size());
  const SlabEntry& entry = former.entry;
  absl::StatusOr<std::unique_ptr<Mapping>> mapped = error::NotFound("slab {} was not kept", slab);
  if (former.memory != nullptr) {
    mapped = seams_.host->Map(former.memory, options_.slab_bytes, Access::kReadWrite, false);
  }
  if (!mapped.ok()) {
    GEMEL_RETURN_IF_ERROR(AddSlab());  // nobody else has the new memory
    slabs_[slab].generation = entry.generation;
    Describe(slab, SlabEntry());
    return absl::OkStatus();
  }
  Slab taken;
  taken.memory = former.memory;
  taken.mapping = *std::move(mapped);
  taken.generation = former.torn ? 0 : entry.generation;
  const HolderKey holder = former.torn ? kUnknownHolder : entry.holder;
  taken.holder = living_.contains(holder) ? holder : kServerHolder;
  const bool claimed = !former.torn && entry.state == SlabState::kInUse && entry.sealed;
  const SlabState unclaimed = taken.holder == kServerHolder ? SlabState::kFree : SlabState::kIdle;
  taken.state = claimed ? SlabState::kInUse : unclaimed;
  counts_[static_cast<size_t>(taken.state)] += 1;
  slabs_.push_back(std::move(taken));
  Describe(slab, claimed ? entry : SlabEntry());
  ShowToNet(slab);  // a former life has touched it
  return absl::OkStatus();
}

void SlabPool::FormerClientsDied() {
  if (!unproven_ && living_.contains(kUnknownHolder)) {
    HolderDied(kUnknownHolder);
  }
}

void SlabPool::MaybeForget(HolderKey holder) {
  const bool gone = !living_.contains(holder) && !named_.contains(holder);
  if (gone && holder != kServerHolder && holder != kUnknownHolder && forgotten_) {
    forgotten_(holder);
  }
}

void SlabPool::MoveSlabs(HolderKey from, HolderKey to) {
  GEMEL_CHECK(from != to && living_.contains(to)) << from << " to " << to;
  GEMEL_CHECK_EQ(living_.erase(from), 1U) << "holder " << from;
  for (uint32_t slab = 0; slab < slabs_.size(); ++slab) {
    if (slabs_[slab].holder != from) {
      continue;
    }
    slabs_[slab].holder = to;
    // The extent of one in use stays: its entry names the same process until it is written anew.
    if (slabs_[slab].state == SlabState::kIdle) {
      Describe(slab, SlabEntry());
    }
  }
  MaybeForget(from);
}

HolderKey SlabPool::AddHolder(uint64_t pid) {
  const HolderKey holder = next_holder_++;
  GEMEL_CHECK_NE(holder, kServerHolder);
  living_.emplace(holder, pid);
  return holder;
}

void SlabPool::HolderDied(HolderKey holder) {
  GEMEL_CHECK_EQ(living_.erase(holder), 1U) << "holder " << holder;
  for (uint32_t slab = 0; slab < slabs_.size(); ++slab) {
    if (slabs_[slab].holder != holder) {
      continue;
    }
    const bool idle = slabs_[slab].state == SlabState::kIdle;
    slabs_[slab].holder = kServerHolder;
    if (idle) {
      SetState(slab, SlabState::kFree, kServerHolder);
    }
  }
  MaybeForget(holder);
  SetGauges();
}

const SlabPool::Slab& SlabPool::At(uint32_t slab) const {
  GEMEL_CHECK_LT(slab, slabs_.size());
  return slabs_[slab];
}

uint64_t SlabPool::PidOf(HolderKey holder) const {
  const auto found = living_.find(holder);
  return found == living_.end() ? 0 : found->second;
}

MutableByteSpan SlabPool::bytes(uint32_t slab) const { return At(slab).mapping->bytes(); }

std::shared_ptr<SharedHandle> SlabPool::memory(uint32_t slab) const { return At(slab).memory; }

absl::Status SlabPool::AddSlab() {
  GEMEL_CHECK_LT(slabs_.size(), slabs_max_);
  Slab slab;
  GEMEL_ASSIGN_OR_RETURN(slab.memory, seams_.host->CreateMemory("gemel-slab", options_.slab_bytes));
  GEMEL_ASSIGN_OR_RETURN(
      slab.mapping, seams_.host->Map(slab.memory, options_.slab_bytes, Access::kReadWrite, false));
  counts_[static_cast<size_t>(slab.state)] += 1;
  slabs_.push_back(std::move(slab));
  if (added_) {
    added_(static_cast<uint32_t>(slabs_.size() - 1));
  }
  return absl::OkStatus();
}

void SlabPool::SetState(uint32_t slab, SlabState state, HolderKey holder) {
  Slab& changed = slabs_[slab];
  // (2): from a living client a slab goes to nobody else.
  GEMEL_CHECK(changed.holder == holder || !living_.contains(changed.holder))
      << "slab " << slab << " of holder " << changed.holder << " for " << holder;
  GEMEL_CHECK(state != SlabState::kFree || holder == kServerHolder) << "slab " << slab;
  GEMEL_CHECK(state != SlabState::kIdle || living_.contains(holder)) << "slab " << slab;
  if (changed.state == SlabState::kFree && state != SlabState::kFree) {
    changed.generation = std::max(changed.generation + 1, options_.life << 32);
  }
  counts_[static_cast<size_t>(changed.state)] -= 1;
  counts_[static_cast<size_t>(state)] += 1;
  changed.state = state;
  changed.holder = holder;
  Describe(slab, SlabEntry());
}

void SlabPool::Describe(uint32_t slab, SlabEntry extent) {
  GEMEL_CHECK_LT(slab, slabs_.size());
  Slab& described = slabs_[slab];
  extent.slab = slab;
  extent.state = described.state;
  extent.generation = described.generation;
  extent.holder = living_.contains(described.holder) ? described.holder : kServerHolder;
  directory_->Write(extent);
  const HolderKey before = std::exchange(described.named, extent.holder);
  if (extent.holder != kServerHolder) {
    named_[extent.holder] += 1;
  }
  if (before != kServerHolder) {
    const auto named = named_.find(before);
    GEMEL_CHECK(named != named_.end() && named->second > 0) << before;
    named->second -= 1;
    if (named->second == 0) {
      named_.erase(named);
      MaybeForget(before);
    }
  }
}

uint64_t SlabPool::used_bytes() const { return CountIn(SlabState::kInUse) * options_.slab_bytes; }

uint64_t SlabPool::idle_bytes() const { return CountIn(SlabState::kIdle) * options_.slab_bytes; }

// Up to `count` slabs: idle ones of `holder`, free ones (warm before cold), new ones.
std::vector<uint32_t> SlabPool::Pick(HolderKey holder, uint64_t count) {
  std::vector<uint32_t> picked;
  std::vector<uint32_t> cold;
  for (uint32_t slab = 0; slab < slabs_.size() && picked.size() < count; ++slab) {
    if (holder != kServerHolder && slabs_[slab].state == SlabState::kIdle &&
        slabs_[slab].holder == holder) {
      picked.push_back(slab);
    }
  }
  for (uint32_t slab = 0; slab < slabs_.size() && picked.size() < count; ++slab) {
    if (slabs_[slab].state == SlabState::kFree) {
      const bool warm = slabs_[slab].warm_bytes == options_.slab_bytes;
      (warm ? picked : cold).push_back(slab);
    }
  }
  for (size_t i = 0; i < cold.size() && picked.size() < count; ++i) {
    picked.push_back(cold[i]);
  }
  while (picked.size() < count && slabs_.size() < slabs_max_ && AddSlab().ok()) {
    picked.push_back(static_cast<uint32_t>(slabs_.size() - 1));
  }
  return picked;
}

absl::StatusOr<std::vector<uint32_t>> SlabPool::Take(HolderKey holder, uint64_t bytes) {
  GEMEL_CHECK(holder == kServerHolder || living_.contains(holder)) << "holder " << holder;
  GEMEL_CHECK_GT(bytes, 0U);
  const uint64_t count = DivideUp(bytes, options_.slab_bytes);
  std::vector<uint32_t> picked =
      count <= slabs_max_ ? Pick(holder, count) : std::vector<uint32_t>();
  if (picked.size() < count) {
    return NoMemory(holder, count);
  }
  GEMEL_CHECK_EQ(picked.size(), count);
  for (const uint32_t slab : picked) {
    SetState(slab, SlabState::kInUse, holder);
  }
  const uint64_t wish = 2 * count * options_.slab_bytes;
  watermark_bytes_ = std::min(std::max(watermark_bytes_, wish), capacity_bytes());
  SetGauges();
  taken_.NotifyAll();
  return picked;
}

absl::Status SlabPool::NoMemory(HolderKey holder, uint64_t count) const {
  std::map<uint64_t, uint64_t> idle;  // bytes by pid
  for (const Slab& slab : slabs_) {
    if (slab.state == SlabState::kIdle) {
      idle[living_.at(slab.holder)] += options_.slab_bytes;
    }
  }
  std::string processes;
  for (const auto& [pid, bytes] : idle) {
    const std::string who = pid == 0 ? "a former life" : fmt::format("process {}", pid);
    processes += fmt::format("{}{} {}", processes.empty() ? " (" : ", ", who, bytes);
  }
  processes += processes.empty() ? "" : ")";
  return error::ResourceExhausted(
      "{} bytes are needed ({} slabs of {} bytes) for holder {}; of {} bytes {} hold objects and "
      "{} are mapped by living clients{}: raise --memory, keep fewer snapshots, or end processes "
      "that save no more",
      count * options_.slab_bytes, count, options_.slab_bytes, holder, capacity_bytes(),
      used_bytes(), idle_bytes(), processes);
}

std::vector<uint32_t> SlabPool::Prepare(HolderKey holder, uint64_t bytes) {
  GEMEL_CHECK(living_.contains(holder)) << "holder " << holder;
  const uint64_t floor = uint64_t{slabs_max_} * kPrepareLeavesPercent / 100;
  const uint64_t busy = CountIn(SlabState::kInUse) + CountIn(SlabState::kIdle);
  const uint64_t grantable = slabs_max_ > busy + floor ? slabs_max_ - busy - floor : 0;
  uint64_t own = 0;
  for (const Slab& slab : slabs_) {
    own += slab.state == SlabState::kIdle && slab.holder == holder ? 1 : 0;
  }
  const uint64_t count = std::min(DivideUp(bytes, options_.slab_bytes), own + grantable);
  std::vector<uint32_t> picked = Pick(holder, count);
  for (const uint32_t slab : picked) {
    SetState(slab, SlabState::kIdle, holder);
  }
  SetGauges();
  taken_.NotifyAll();
  return picked;
}

void SlabPool::Release(uint32_t slab) {
  if (seams_.loop->is_shut_down()) {
    return;  // (5)
  }
  GEMEL_CHECK(At(slab).state == SlabState::kInUse) << "slab " << slab;
  const bool held = living_.contains(At(slab).holder);
  SetState(slab, held ? SlabState::kIdle : SlabState::kFree,
           held ? At(slab).holder : kServerHolder);
  SetGauges();
}

uint64_t SlabPool::WarmFreeBytes() const {
  uint64_t warm = 0;
  for (const Slab& slab : slabs_) {
    warm += slab.state == SlabState::kFree ? slab.warm_bytes : 0;
  }
  return warm;
}

uint32_t SlabPool::ColdFreeSlab() const {
  for (uint32_t slab = 0; slab < slabs_.size(); ++slab) {
    if (slabs_[slab].state == SlabState::kFree && slabs_[slab].warm_bytes < options_.slab_bytes) {
      return slab;
    }
  }
  return kNoSlab;
}

// Touches the next pages of a free slab; false when it is warm.
bool SlabPool::TouchStep(uint32_t slab) {
  Slab& touched = slabs_[slab];
  GEMEL_CHECK(touched.state == SlabState::kFree) << "slab " << slab;
  GEMEL_CHECK_LT(touched.warm_bytes, options_.slab_bytes) << "slab " << slab;
  const uint64_t end = std::min(touched.warm_bytes + kTouchStepBytes, options_.slab_bytes);
  const MutableByteSpan memory = touched.mapping->bytes();
  for (uint64_t at = touched.warm_bytes; at < end; at += kPageBytes) {
    memory[at] = std::byte{0};
  }
  touched.warm_bytes = end;
  if (end == options_.slab_bytes) {
    ShowToNet(slab);
  }
  return end < options_.slab_bytes;
}

// Only what is present: a device that registers memory waits for each page of it.
void SlabPool::ShowToNet(uint32_t slab) {
  if (seams_.net != nullptr && !std::exchange(slabs_[slab].shown, true)) {
    seams_.net->AddMemory(slabs_[slab].mapping->bytes());
  }
}

absl::Status SlabPool::WarmFirst() {
  if (!slabs_.empty()) {
    return absl::OkStatus();  // a former life's, touched by it
  }
  GEMEL_RETURN_IF_ERROR(AddSlab());
  while (TouchStep(0)) {
  }
  return absl::OkStatus();
}

Task<void> SlabPool::KeepWarm(Gate* gate) {
  const auto self = shared_from_this();
  Gate::Pass pass = gate->Enter();
  while (pass && !gate->closed()) {
    const uint32_t cold = ColdFreeSlab();
    const bool wanted = WarmFreeBytes() < watermark_bytes_;
    if (wanted && cold != kNoSlab) {
      TouchStep(cold);
      co_await seams_.loop->Yield();
      continue;
    }
    if (wanted && slabs_.size() < slabs_max_ && AddSlab().ok()) {
      continue;
    }
    co_await taken_.WaitUntil(Add(seams_.loop->Now(), kWarmPause));
  }
}

void SlabPool::SetGauges() {
  used_gauge_.Set(static_cast<int64_t>(used_bytes()));
  idle_gauge_.Set(static_cast<int64_t>(idle_bytes()));
}

}  // namespace gemel
