// SPDX-License-Identifier: Apache-2.0
#include "common/sim_disk.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "common/xxh3.h"

namespace gemel {
namespace {

constexpr uint64_t kLatencyMicrosecondsMin = 50;
constexpr uint64_t kLatencyMicrosecondsMax = 500;

}  // namespace

void SimDiskState::set_slowness(uint32_t factor) {
  GEMEL_CHECK_GT(factor, 0U);
  slowness_ = factor;
}

void SimDiskState::Calm() {
  slowness_ = 1;
  full_ = false;
  fail_next_sync_ = false;
  misdirect_next_write_ = false;
  tear_at_crash_ = false;
}

void SimDiskState::Crash(Random* random) {
  // Invariant (3): the first operation without effect ends the prefix.
  while (!unfinished_.empty() && random->Chance(1, 2)) {
    Apply(std::move(unfinished_.front()));
    unfinished_.pop_front();
  }
  if (std::exchange(tear_at_crash_, false) && !unfinished_.empty() &&
      unfinished_.front().content.has_value() && !unfinished_.front().in_place) {
    const std::string name = unfinished_.front().name;
    Apply(std::move(unfinished_.front()));
    stats_.torn += Rot(name) ? 1 : 0;
  }
  unfinished_.clear();
}

// Which other file is hit is drawn from `random`; the only one: nothing but the lost write.
void SimDiskState::Misdirect(const std::string& name, Random* random) {
  stats_.misdirected += 1;
  auto hit = files_.begin();
  std::advance(hit, static_cast<ptrdiff_t>(random->Below(files_.size() + 1)));
  if (hit != files_.end() && hit->first != name) {
    hit->second.rotten = true;
  }
}

uint64_t SimDiskState::Digest() const {
  uint64_t digest = files_.size();
  for (const auto& [name, file] : files_) {
    const uint64_t mixed = Xxh3_128(AsBytes(name)).low ^ (Xxh3_128(AsBytes(file.content)).low << 1);
    digest = (digest ^ mixed ^ (file.rotten ? 1 : 0)) * 0x100000001b3ULL;
  }
  return digest;
}

bool SimDiskState::Rot(const std::string& name) {
  auto found = files_.find(name);
  if (found == files_.end()) {
    return false;
  }
  found->second.rotten = true;
  return true;
}

void SimDiskState::RollBackTo(Contents contents) {
  GEMEL_CHECK(unfinished_.empty()) << "roll a disk back while its process is dead: Crash() first";
  files_.clear();
  for (auto& [name, content] : contents) {
    files_[name] = File{std::move(content), false};
  }
}

SimDiskState::Contents SimDiskState::contents() const {
  Contents contents;
  for (const auto& [name, file] : files_) {
    contents[name] = file.content;
  }
  return contents;
}

bool SimDiskState::Has(const std::string& name) const {
  const auto found = files_.find(name);
  return found != files_.end() && !found->second.rotten;
}

// True when a part of `name` is a file, or `name` is the directory of another file.
bool SimDiskState::ClashesWithDirectory(const std::string& name) const {
  for (size_t slash = name.find('/'); slash != name.npos; slash = name.find('/', slash + 1)) {
    if (files_.contains(name.substr(0, slash))) {
      return true;
    }
  }
  auto below = files_.lower_bound(name + "/");
  return below != files_.end() && below->first.starts_with(name + "/");
}

// REQUIRES: `change` writes.
bool SimDiskState::Fits(const Change& change) const {
  const auto found = files_.find(change.name);
  return !full_ ||
         (change.in_place && found != files_.end() && change.content->size() <= found->second.room);
}

void SimDiskState::Apply(Change change) {
  if (!change.content.has_value()) {
    files_.erase(change.name);
  } else if (Fits(change) && !ClashesWithDirectory(change.name)) {
    File& file = files_[change.name];
    const size_t bytes = change.content->size();
    const size_t room = !change.in_place ? 0 : bytes <= file.room ? file.room : RoomFor(bytes);
    file = File{std::move(*change.content), false, room};
  }
}

absl::Status SimDiskState::Finish(uint64_t serial, Random* random) {
  GEMEL_CHECK(!unfinished_.empty());
  Change change = std::move(unfinished_.front());
  unfinished_.pop_front();
  GEMEL_CHECK_EQ(change.serial, serial);  // operations end in the order in which they began
  const bool writes = change.content.has_value();
  if (writes && !Fits(change)) {
    stats_.refused_full += 1;
    return error::ResourceExhausted(
        "cannot write {}: the simulated disk is full; free space there "
        "or give another directory",
        change.name);
  }
  if (writes && ClashesWithDirectory(change.name)) {
    return error::InvalidArgument(
        "cannot write {}: a part of the name is a file where a directory "
        "is needed, or the other way round",
        change.name);
  }
  if (writes && std::exchange(misdirect_next_write_, false)) {
    Misdirect(change.name, random);
    if (change.in_place) {
      Apply(std::move(change));
    }
    return absl::OkStatus();
  }
  if (std::exchange(fail_next_sync_, false)) {
    stats_.failed_syncs += 1;
    absl::Status failed = error::Unavailable(
        "cannot sync {}: injected I/O error; the file is old or new", change.name);
    if (random->Chance(1, 2)) {
      Apply(std::move(change));
    }
    return failed;
  }
  Apply(std::move(change));
  return absl::OkStatus();
}

absl::StatusOr<std::string> SimDiskState::Read(const std::string& name) const {
  auto found = files_.find(name);
  if (found == files_.end()) {
    return error::NotFound("file {} does not exist", name);
  }
  if (found->second.rotten) {
    return error::DataLoss("file {} fails its checksum; restore it from another copy or remove it",
                           name);
  }
  return found->second.content;
}

std::vector<std::string> SimDiskState::List(const std::string& prefix) const {
  const std::string directory = prefix.empty() ? "" : prefix + "/";
  std::vector<std::string> names;
  for (auto file = files_.lower_bound(directory);
       file != files_.end() && file->first.starts_with(directory); ++file) {
    names.push_back(file->first);
  }
  return names;
}

SimDisk::SimDisk(Loop* loop, SimDiskState* state, Random random)
    : use_(std::make_shared<Use>(Use{loop, state, random})) {
  GEMEL_CHECK(!state->in_use_) << "another SimDisk uses this state";
  state->in_use_ = true;
  state->Crash(&use_->random);
}

SimDisk::~SimDisk() {
  use_->closed = true;
  GEMEL_CHECK(use_->state->in_use_);
  use_->state->in_use_ = false;
}

// Waits for the end of an operation that begins now. Cancelled when the disk went away meanwhile.
Task<absl::Status> SimDisk::TakeTurn(std::shared_ptr<Use> use) {
  const uint64_t spread = kLatencyMicrosecondsMax - kLatencyMicrosecondsMin + 1;
  const uint64_t drawn = kLatencyMicrosecondsMin + use->random.Below(spread);
  const auto latency = std::chrono::microseconds(drawn * use->state->slowness_);
  use->state->stats_.slow_operations += use->state->slowness_ > 1 ? 1 : 0;
  use->free_at = Add(std::max(use->free_at, use->loop->Now()), latency);
  co_await use->loop->SleepUntil(use->free_at);
  if (use->closed) {
    co_return error::Cancelled("the disk is closing");
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::string>> SimDisk::DoRead(std::shared_ptr<Use> use, std::string name) {
  GEMEL_CO_RETURN_IF_ERROR(use->closed ? error::Cancelled("the disk is closed")
                                       : CheckFileName(name));
  GEMEL_CO_RETURN_IF_ERROR(co_await TakeTurn(use));
  co_return use->state->Read(name);
}

Task<absl::StatusOr<std::vector<std::string>>> SimDisk::DoList(std::shared_ptr<Use> use,
                                                               std::string prefix) {
  GEMEL_CO_RETURN_IF_ERROR(use->closed ? error::Cancelled("the disk is closed")
                                       : CheckFilePrefix(prefix));
  GEMEL_CO_RETURN_IF_ERROR(co_await TakeTurn(use));
  co_return use->state->List(prefix);
}

Task<absl::Status> SimDisk::DoChange(std::shared_ptr<Use> use, SimDiskState::Change change) {
  const uint64_t bytes = change.content.has_value() ? change.content->size() : 0;
  GEMEL_CO_RETURN_IF_ERROR(use->closed ? error::Cancelled("the disk is closed")
                                       : CheckFileWrite(change.name, bytes));
  const uint64_t serial = use->state->next_serial_++;
  change.serial = serial;
  use->state->unfinished_.push_back(std::move(change));
  GEMEL_CO_RETURN_IF_ERROR(co_await TakeTurn(use));
  co_return use->state->Finish(serial, &use->random);
}

Task<absl::StatusOr<std::string>> SimDisk::Read(std::string name) {
  return DoRead(use_, std::move(name));
}

Task<absl::Status> SimDisk::WriteAtomically(std::string name, std::string content) {
  return DoChange(use_, {0, std::move(name), std::move(content)});
}

Task<absl::Status> SimDisk::WriteInPlace(std::string name, std::string content) {
  return DoChange(use_, {0, std::move(name), std::move(content), true});
}

Task<absl::StatusOr<std::vector<std::string>>> SimDisk::List(std::string prefix) {
  return DoList(use_, std::move(prefix));
}

Task<absl::Status> SimDisk::Remove(std::string name) {
  return DoChange(use_, {0, std::move(name), std::nullopt});
}

}  // namespace gemel
