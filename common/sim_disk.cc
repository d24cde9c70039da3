// SPDX-License-Identifier: Apache-2.0
#include "common/sim_disk.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/file_frame.h"
#include "common/status_macros.h"
#include "common/xxh3.h"

namespace gemel {
namespace {

constexpr uint64_t kLatencyMicrosecondsMin = 50;
constexpr uint64_t kLatencyMicrosecondsMax = 500;
constexpr uint32_t kCallsAtDeathMax = 20;  // of an operation; few make more
constexpr uint64_t kBitsPerByte = 8;

using View = SimFileSystem::View;

std::string PathOf(std::string_view name) {
  return fmt::format("{}/{}", SimFileSystem::kTop, name);
}

// The names that `paths` have in a Disk, without the directory's own files.
std::vector<std::string> NamesOf(const std::vector<std::string>& paths) {
  std::vector<std::string> names;
  for (const std::string& path : paths) {
    std::string name = path.substr(SimFileSystem::kTop.size() + 1);
    if (CheckFileName(name).ok()) {
      names.push_back(std::move(name));
    }
  }
  return names;
}

}  // namespace

void SimDiskState::set_slowness(uint32_t factor) {
  GEMEL_CHECK_GT(factor, 0U);
  slowness_ = factor;
}

void SimDiskState::Calm() {
  slowness_ = 1;
  fail_next_sync_ = false;
  misdirect_next_write_ = false;
  tear_at_crash_ = false;
  file_system_.set_full(false);
}

void SimDiskState::Open(Random random) {
  GEMEL_CHECK(files_ == nullptr && unfinished_.empty());
  auto calls = std::make_unique<SimFileCalls>(&file_system_, random.Split("calls"));
  calls_ = calls.get();
  auto opened = DiskFiles::Open(std::string(SimFileSystem::kTop), std::move(calls));
  GEMEL_CHECK(opened.ok()) << ToText(opened.status());  // it makes nothing but an empty file
  files_ = *std::move(opened);
}

void SimDiskState::Crash(Random* random) {
  GEMEL_CHECK(!in_use_) << "a crash while a process uses the disk";
  // Invariant (3): the first operation that is not whole ends the prefix.
  while (!unfinished_.empty() && random->Chance(1, 2)) {
    Run(unfinished_.front(), random).IgnoreError();
    unfinished_.pop_front();
  }
  const bool tear = std::exchange(tear_at_crash_, false);
  if (!unfinished_.empty()) {
    const Change& change = unfinished_.front();
    if (tear && change.content.has_value() && !change.in_place) {
      const absl::Status run = Run(change, random);
      const bool there = file_system_.Find(PathOf(change.name), View::kDurable) != nullptr;
      if (run.ok() && there) {
        file_system_.Tear(PathOf(change.name), random);
        stats_.torn += 1;
      }
    } else {
      EndWithin(change, random);
    }
  }
  unfinished_.clear();
  files_.reset();
  calls_ = nullptr;
  file_system_.Crash(random);
}

// At one of its system calls, or after all.
void SimDiskState::EndWithin(const Change& change, Random* random) {
  GEMEL_CHECK(calls_ != nullptr);
  calls_->DieAfter(static_cast<uint32_t>(random->Below(kCallsAtDeathMax + 1)));
  Run(change, random).IgnoreError();
}

uint64_t SimDiskState::Digest() const {
  const std::vector<std::string> names = Names();
  uint64_t digest = names.size();
  const auto mix = [&digest](std::string_view bytes) {
    digest = (digest ^ Xxh3_128(AsBytes(bytes)).low) * 0x100000001b3ULL;
  };
  for (const std::string& name : names) {
    const std::string* cached = file_system_.Find(PathOf(name), View::kCached);
    const std::string* durable = file_system_.Find(PathOf(name), View::kDurable);
    mix(name);
    mix(*cached);
    if (durable == nullptr || *durable != *cached) {
      mix(durable == nullptr ? std::string_view("unsynced") : *durable);
    }
  }
  return digest;
}

bool SimDiskState::Rot(const std::string& name) {
  const std::string path = PathOf(name);
  const std::string* bytes = file_system_.Find(path, View::kCached);
  if (bytes == nullptr) {
    return false;
  }
  if (!UnframeFile(*bytes, path).ok()) {
    return true;  // a second bit could be the first one
  }
  const uint64_t drawn = Xxh3_128(AsBytes(*bytes)).low ^ Xxh3_128(AsBytes(name)).low;
  const absl::StatusOr<FilePair> pair = UnframePair(*bytes, path);
  const size_t framed = pair.ok() ? FrameCopy(pair->content, pair->serial).size() : bytes->size();
  // Of a write that was cut short the other copy is an older one, and may be read for good.
  const bool alike = !pair.ok() || bytes->compare(0, framed, *bytes, pair->room, framed) == 0;
  const uint64_t bit = drawn % (framed * kBitsPerByte);
  file_system_.FlipBit(path, bit);
  if (pair.ok()) {
    file_system_.FlipBit(path, pair->room * kBitsPerByte + bit);
  }
  if (alike) {
    rotten_[name] = Xxh3_128(AsBytes(*file_system_.Find(path, View::kCached))).low;
  }
  return true;
}

absl::StatusOr<std::string> SimDiskState::Read(const std::string& name) {
  GEMEL_CHECK(files_ != nullptr);
  absl::StatusOr<std::string> content = files_->Read(name);
  const auto rotten = rotten_.find(name);
  if (content.ok() && rotten != rotten_.end()) {
    const std::string* bytes = file_system_.Find(PathOf(name), View::kCached);
    GEMEL_CHECK(bytes != nullptr) << name;
    if (Xxh3_128(AsBytes(*bytes)).low == rotten->second) {
      believed_.push_back(name);
    }
    rotten_.erase(rotten);  // or it was written anew
  }
  return content;
}

SimDiskState::Stats SimDiskState::stats() const {
  Stats stats = stats_;
  stats.failed_syncs = file_system_.stats().failed_syncs;
  stats.refused_full = file_system_.stats().refused_full;
  stats.misdirected = file_system_.stats().misdirected;
  return stats;
}

void SimDiskState::RollBackTo(Contents contents) {
  GEMEL_CHECK(unfinished_.empty()) << "roll a disk back while its process is dead: Crash() first";
  file_system_.Format();
  for (const auto& [name, content] : contents) {
    file_system_.Put(PathOf(name), FrameFile(content));
  }
}

SimDiskState::Contents SimDiskState::contents() const {
  Contents contents;
  for (const std::string& name : NamesOf(file_system_.Files(View::kDurable))) {
    const std::string& bytes = *file_system_.Find(PathOf(name), View::kDurable);
    const absl::StatusOr<std::string> content = UnframeFile(bytes, name);
    contents[name] = content.ok() ? *content : bytes;
  }
  return contents;
}

absl::StatusOr<std::string> SimDiskState::Durable(const std::string& name) const {
  const std::string* bytes = file_system_.Find(PathOf(name), View::kDurable);
  if (bytes == nullptr) {
    return error::NotFound("file {} is not durable", name);
  }
  return UnframeFile(*bytes, name);
}

std::vector<std::string> SimDiskState::Names() const {
  return NamesOf(file_system_.Files(View::kCached));
}

absl::Status SimDiskState::Run(const Change& change, Random* random) {
  GEMEL_CHECK(files_ != nullptr);
  const SimFileSystem::Stats before = file_system_.stats();
  if (fail_next_sync_) {
    const uint64_t passed = change.content.has_value() ? random->Below(2) : 0;
    file_system_.FailSyncs(static_cast<uint32_t>(passed), change.in_place ? UINT32_MAX : 1);
  }
  if (misdirect_next_write_) {
    file_system_.MisdirectNextWrite(PathOf(change.name));
  }
  const absl::Status done = Do(change);
  file_system_.FailSyncs(0, 0);
  file_system_.MisdirectNextWrite(std::nullopt);
  fail_next_sync_ = fail_next_sync_ && file_system_.stats().failed_syncs == before.failed_syncs;
  misdirect_next_write_ =
      misdirect_next_write_ && file_system_.stats().misdirected == before.misdirected;
  return done;
}

absl::Status SimDiskState::Do(const Change& change) {
  if (!change.content.has_value()) {
    return files_->Remove(change.name);
  }
  return change.in_place ? files_->WriteInPlace(change.name, *change.content)
                         : files_->WriteAtomically(change.name, *change.content);
}

absl::Status SimDiskState::Finish(uint64_t serial, Random* random) {
  GEMEL_CHECK(!unfinished_.empty());
  const Change change = std::move(unfinished_.front());
  unfinished_.pop_front();
  GEMEL_CHECK_EQ(change.serial, serial);  // operations end in the order in which they began
  return Run(change, random);
}

SimDisk::SimDisk(Loop* loop, SimDiskState* state, Random random)
    : use_(std::make_shared<Use>(Use{loop, state, random})) {
  GEMEL_CHECK(!state->in_use_) << "another SimDisk uses this state";
  state->Crash(&use_->random);
  state->in_use_ = true;
  state->Open(use_->random);
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
  co_return use->state->files_->List(prefix);
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
