// SPDX-License-Identifier: Apache-2.0
#include "server/persist/sim_persist.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/copies.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "common/xxh3.h"
#include "server/limits.h"
#include "server/persist/persist_points.h"
#include "server/persist/persist_record.h"

namespace gemel {
namespace {

constexpr uint64_t kStepMicrosecondsMin = 100;
constexpr uint64_t kStepMicrosecondsMax = 900;
constexpr Duration kHungLook = 20ms;
constexpr Duration kReopenAfter = 1s;

absl::Status GivenUp(const SnapshotId& snapshot) {
  return error::Aborted("persisting {} was given up: its snapshot was dropped",
                        snapshot.ToString());
}

}  // namespace

void SimPersistState::set_slowness(uint32_t factor) {
  GEMEL_CHECK_GT(factor, 0U);
  slowness_ = factor;
}

void SimPersistState::Calm() {
  capacity_bytes_ = UINT64_MAX;
  slowness_ = 1;
  hung_ = false;
  fail_next_step_ = false;
}

const SimPersistState::File* SimPersistState::Find(const ShardId& shard) const {
  for (const auto& [range, file] : files_) {
    if (file.recorded && file.shard.shard == shard) {
      return &file;
    }
  }
  return nullptr;
}

SimPersistState::File* SimPersistState::Find(const ShardId& shard) {
  return const_cast<File*>(std::as_const(*this).Find(shard));
}

bool SimPersistState::IsSound(const ShardId& shard) const {
  const File* file = Find(shard);
  bool sound = file != nullptr && file->chunks.size() == file->digests.size();
  for (size_t chunk = 0; sound && chunk < file->chunks.size(); ++chunk) {
    sound = Xxh3_128(AsBytes(file->chunks[chunk])) == file->digests[chunk];
  }
  return sound;
}

bool SimPersistState::Rot(const ShardId& shard, uint32_t chunk) {
  File* file = Find(shard);
  if (file == nullptr || chunk >= file->chunks.size()) {
    return false;
  }
  file->chunks[chunk].front() ^= 1;
  return true;
}

void SimPersistState::Wipe() {
  GEMEL_CHECK(!in_use_) << "replace a disk while its process is dead";
  files_.clear();
  snapshots_.clear();
  dropping_.reset();
}

std::shared_ptr<const SimPersistState::Contents> SimPersistState::Picture() const {
  auto contents = std::make_shared<Contents>();
  contents->snapshots = snapshots_;
  for (const auto& [range, file] : files_) {
    if (file.recorded && !file.in_doubt) {
      contents->files.emplace(range, file);
    }
  }
  return contents;
}

void SimPersistState::RollBackTo(const Contents& contents) {
  Wipe();
  files_ = contents.files;
  snapshots_ = contents.snapshots;
}

uint64_t SimPersistState::occupied_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [range, file] : files_) {
    for (const std::string& chunk : file.chunks) {
      bytes += chunk.size();
    }
  }
  return bytes;
}

std::vector<std::pair<ShardId, std::string>> SimPersistState::Durable() const {
  std::vector<std::pair<ShardId, std::string>> durable;
  for (const auto& [range, file] : files_) {
    if (file.recorded && !file.in_doubt && file.shard.shard.snapshot != dropping_) {
      durable.emplace_back(file.shard.shard, file.record);
    }
  }
  return durable;
}

// The shard of this range exists from now on; what it replaces does not.
void SimPersistState::Record(uint64_t range) {
  File& file = files_.at(range);
  GEMEL_CHECK_EQ(file.chunks.size(), file.digests.size());
  if (File* before = Find(file.shard.shard)) {
    before->recorded = false;
  }
  file.in_doubt = false;
  file.recorded = true;
  Snapshot& snapshot = snapshots_[file.shard.shard.snapshot];
  snapshot.record = file.record;
  snapshot.manifest = file.manifest;
}

void SimPersistState::Unrecord(const SnapshotId& snapshot) {
  for (auto& [range, file] : files_) {
    file.recorded = file.recorded && file.shard.shard.snapshot != snapshot;
  }
  snapshots_.erase(snapshot);
}

void SimPersistState::EraseUnrecorded() {
  std::erase_if(files_, [](const auto& one) { return !one.second.recorded; });
}

void SimPersistState::Settle(Random* random) {
  for (auto& [range, file] : files_) {
    if (file.in_doubt && random->Chance(1, 2)) {
      Record(range);
    }
  }
  if (dropping_.has_value() && random->Chance(1, 2)) {
    Unrecord(*dropping_);
  }
  dropping_.reset();
  EraseUnrecorded();
}

SimPersist::SimPersist(Loop* loop, SimPersistState* state, Random random)
    : use_(std::make_shared<Use>(loop, state, random)) {
  GEMEL_CHECK(!state->in_use_) << "another SimPersist uses this state";
  state->in_use_ = true;
  state->Settle(&use_->random);
}

SimPersist::~SimPersist() {
  use_->closed = true;
  use_->state->in_use_ = false;
}

void SimPersist::SetHook(PersistStepHook at_step) { use_->at_step = std::move(at_step); }

// Opens anew what failed, once its time has come.
absl::Status SimPersist::CheckOpen(Use* use) {
  if (use->closed) {
    return error::Cancelled("the simulated disk is closing");
  }
  if (use->reopen_at.has_value() && use->loop->Now() >= *use->reopen_at) {
    use->reopen_at.reset();
    use->openings += 1;
    use->state->Settle(&use->random);
  }
  return use->reopen_at.has_value()
             ? error::Unavailable("the simulated disk failed and is not open: replace it")
             : absl::OkStatus();
}

// One thing that the disk does.
Task<absl::Status> SimPersist::Pass(UsePtr use, bool writes) {
  GEMEL_CO_RETURN_IF_ERROR(CheckOpen(use.get()));
  const uint64_t spread = kStepMicrosecondsMax - kStepMicrosecondsMin + 1;
  const uint64_t drawn = kStepMicrosecondsMin + use->random.Below(spread);
  use->state->stats_.slow_steps += use->state->slowness_ > 1 ? 1 : 0;
  co_await use->loop->Sleep(std::chrono::microseconds(drawn * use->state->slowness_));
  while (use->state->hung_ && !use->closed) {
    use->state->stats_.hung_looks += 1;
    co_await use->loop->Sleep(kHungLook);
  }
  GEMEL_CO_RETURN_IF_ERROR(CheckOpen(use.get()));
  use->progress += 1;
  if (writes && std::exchange(use->state->fail_next_step_, false)) {
    use->reopen_at = Add(use->loop->Now(), kReopenAfter);
    use->state->stats_.failed_steps += 1;
    co_return error::Unavailable("the simulated disk failed: injected I/O error");
  }
  co_return absl::OkStatus();
}

Task<absl::Status> SimPersist::Step(UsePtr use, PersistStep step) {
  Reach(PointOf(step));
  if (use->at_step) {
    use->at_step(step);
  }
  return Pass(std::move(use), true);
}

// REQUIRES after OK: turn.Release(1).
Task<absl::Status> SimPersist::TakeTurn(UsePtr use) {
  if (use->waiting >= kPersistWritesMax) {
    co_return error::ResourceExhausted("the simulated disk has {} operations waiting",
                                       use->waiting);
  }
  use->waiting += 1;
  const bool taken = co_await use->turn.Acquire(1, kTimeNever);
  GEMEL_CHECK(taken);
  use->waiting -= 1;
  absl::Status passed = co_await Pass(use, true);
  if (!passed.ok()) {
    use->turn.Release(1);
  }
  co_return passed;
}

uint64_t SimPersist::FreeBytes(const Use& use) {
  const uint64_t occupied = use.state->occupied_bytes();
  return use.state->capacity_bytes_ - std::min(use.state->capacity_bytes_, occupied);
}

absl::Status SimPersist::CheckSpace(Use* use, const PersistSource& source, uint64_t more) {
  if (more <= FreeBytes(*use)) {
    return absl::OkStatus();
  }
  use->full_for_bytes = source.shard.bytes;
  use->state->stats_.refused_full += 1;
  return error::ResourceExhausted(
      "the simulated disk is full: {} needs {} bytes and {} are free: free space, or give the "
      "server another --persist-dir",
      source.shard.shard.ToString(), source.shard.bytes, FreeBytes(*use));
}

Task<absl::Status> SimPersist::DoWrite(UsePtr use, PersistSource source) {
  GEMEL_CHECK_EQ(source.chunks.size(), ChunkCount(source.shard.bytes));
  GEMEL_CHECK_EQ(source.digests.size(), source.chunks.size());
  const auto writing = std::make_shared<Writing>();
  writing->snapshot = source.shard.shard.snapshot;
  use->writing.push_back(writing);
  absl::Status status = co_await TakeTurn(use);
  if (status.ok()) {
    const uint64_t range = use->state->next_range_++;
    const auto shared = std::make_shared<const PersistSource>(std::move(source));
    status = co_await WriteFile(use, shared, writing, range);
    if (!status.ok() && CheckOpen(use.get()).ok()) {
      use->state->files_.erase(range);
    }
    use->turn.Release(1);
  }
  std::erase(use->writing, writing);
  co_return status;
}

Task<absl::Status> SimPersist::WriteFile(UsePtr use, std::shared_ptr<const PersistSource> source,
                                         std::shared_ptr<Writing> writing, uint64_t range) {
  GEMEL_CO_RETURN_IF_ERROR(CheckSpace(use.get(), *source, source->shard.bytes));
  SimPersistState::File& file = use->state->files_[range];
  file.shard = source->shard;
  file.digests = source->digests;
  file.record = source->record;
  file.manifest = source->manifest;
  GEMEL_CO_RETURN_IF_ERROR(co_await WriteChunks(use, source, writing, range));
  for (const PersistStep step :
       {PersistStep::kFileSynced, PersistStep::kDirectorySynced, PersistStep::kRenamed,
        PersistStep::kRenameSynced, PersistStep::kIngested}) {
    GEMEL_CO_RETURN_IF_ERROR(co_await Step(use, step));
  }
  if (writing->given_up) {
    co_return GivenUp(writing->snapshot);
  }
  use->state->files_.at(range).in_doubt = true;
  GEMEL_CO_RETURN_IF_ERROR(co_await Pass(use, true));
  use->state->Record(range);
  use->state->EraseUnrecorded();
  co_return co_await Step(use, PersistStep::kRecorded);
}

Task<absl::Status> SimPersist::WriteChunks(UsePtr use, std::shared_ptr<const PersistSource> source,
                                           std::shared_ptr<Writing> writing, uint64_t range) {
  for (uint32_t chunk = 0; chunk < source->chunks.size(); ++chunk) {
    if (writing->given_up) {
      co_return GivenUp(writing->snapshot);
    }
    const ByteSpan bytes = source->chunks[chunk];
    const Digest128 found = Xxh3_128(bytes);
    if (found != source->digests[chunk]) {
      co_return error::DataLoss(
          "chunk {} of {} in this server's memory has digest {} where {} belongs", chunk,
          source->shard.shard.ToString(), ToHex(found), ToHex(source->digests[chunk]));
    }
    GEMEL_CO_RETURN_IF_ERROR(CheckSpace(use.get(), *source, bytes.size()));
    use->state->files_.at(range).chunks.emplace_back(AsText(bytes));
    GEMEL_CO_RETURN_IF_ERROR(co_await Step(use, PersistStep::kChunkWritten));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> SimPersist::DoMark(UsePtr use, SnapshotId snapshot) {
  GEMEL_CO_RETURN_IF_ERROR(co_await TakeTurn(use));
  const auto found = use->state->snapshots_.find(snapshot);
  absl::Status status = absl::OkStatus();
  if (found == use->state->snapshots_.end()) {
    status = error::NotFound("nothing of {} is on the simulated disk", snapshot.ToString());
  } else {
    found->second.complete = true;
  }
  use->turn.Release(1);
  co_return status;
}

Task<absl::Status> SimPersist::DoDrop(UsePtr use, SnapshotId snapshot) {
  for (const std::shared_ptr<Writing>& writing : use->writing) {
    writing->given_up = writing->given_up || writing->snapshot == snapshot;
  }
  GEMEL_CO_RETURN_IF_ERROR(co_await TakeTurn(use));
  use->state->dropping_ = snapshot;
  absl::Status status = co_await Pass(use, true);
  if (status.ok()) {
    use->state->dropping_.reset();
    use->state->Unrecord(snapshot);
    status = co_await Step(use, PersistStep::kUnrecorded);
  }
  if (status.ok()) {
    use->state->EraseUnrecorded();
    status = co_await Step(use, PersistStep::kRetired);
  }
  use->turn.Release(1);
  co_return status;
}

Task<absl::Status> SimPersist::Write(PersistSource source) {
  return DoWrite(use_, std::move(source));
}

Task<absl::Status> SimPersist::MarkComplete(SnapshotId snapshot) {
  return DoMark(use_, std::move(snapshot));
}

Task<absl::Status> SimPersist::Drop(SnapshotId snapshot) {
  return DoDrop(use_, std::move(snapshot));
}

Task<absl::StatusOr<std::vector<PersistedSnapshot>>> SimPersist::List() {
  const UsePtr use = use_;
  GEMEL_CO_RETURN_IF_ERROR(co_await Pass(use, false));
  std::map<SnapshotId, PersistedSnapshot> found;
  for (const auto& [range, file] : use->state->files_) {
    if (file.recorded) {
      const SnapshotId& id = file.shard.shard.snapshot;
      const SimPersistState::Snapshot& snapshot = use->state->snapshots_.at(id);
      found[id].snapshot = id;
      found[id].complete = snapshot.complete;
      found[id].record = snapshot.record;
      found[id].shards.push_back(file.shard);
    }
  }
  std::vector<PersistedSnapshot> list;
  for (auto& [id, snapshot] : found) {
    std::sort(snapshot.shards.begin(), snapshot.shards.end(),
              [](const auto& a, const auto& b) { return a.shard.rank < b.shard.rank; });
    list.push_back(std::move(snapshot));
  }
  co_return list;
}

Task<absl::StatusOr<std::vector<Digest128>>> SimPersist::ReadDigests(ShardId shard) {
  const UsePtr use = use_;
  GEMEL_CO_RETURN_IF_ERROR(co_await Pass(use, false));
  const SimPersistState::File* file = use->state->Find(shard);
  if (file == nullptr) {
    co_return error::NotFound("{} is not on the simulated disk", shard.ToString());
  }
  co_return file->digests;
}

Task<absl::StatusOr<std::string>> SimPersist::ReadManifest(SnapshotId snapshot) {
  const UsePtr use = use_;
  GEMEL_CO_RETURN_IF_ERROR(co_await Pass(use, false));
  const auto found = use->state->snapshots_.find(snapshot);
  if (found == use->state->snapshots_.end()) {
    co_return error::NotFound("nothing of {} is on the simulated disk", snapshot.ToString());
  }
  co_return found->second.manifest;
}

Task<absl::Status> SimPersist::ReadChunk(ShardId shard, uint32_t chunk, PersistTarget target) {
  const UsePtr use = use_;
  GEMEL_CO_RETURN_IF_ERROR(co_await Pass(use, false));
  const SimPersistState::File* file = use->state->Find(shard);
  if (file == nullptr) {
    co_return error::NotFound("{} is not on the simulated disk", shard.ToString());
  }
  GEMEL_CHECK_EQ(target.bytes.size(), PersistedChunkBytes(file->shard, chunk));
  const std::string& bytes = file->chunks[chunk];
  const Digest128 found = Xxh3_128(AsBytes(bytes));
  if (found != target.digest) {
    co_return error::DataLoss("chunk {} of {} on the simulated disk has digest {} where {} belongs",
                              chunk, shard.ToString(), ToHex(found), ToHex(target.digest));
  }
  CopyState(target.bytes.data(), bytes.data(), bytes.size());
  co_return absl::OkStatus();
}

PersistState SimPersist::state() const {
  PersistState state;
  const absl::Status open = CheckOpen(use_.get());
  state.progress = use_->progress;
  state.openings = use_->openings;
  state.free_bytes = FreeBytes(*use_);
  if (use_->full_for_bytes > 0 && state.free_bytes >= use_->full_for_bytes) {
    use_->full_for_bytes = 0;
  }
  for (const auto& [range, file] : use_->state->files_) {
    state.used_bytes += file.recorded ? file.shard.bytes : 0;
  }
  if (!open.ok()) {
    state.trouble = std::string(MessageOf(open));
  } else if (use_->full_for_bytes > 0) {
    state.trouble = fmt::format(
        "the simulated disk is full: {} bytes are needed, {} are free; free space there, or give "
        "the server another --persist-dir",
        use_->full_for_bytes, state.free_bytes);
  }
  return state;
}

}  // namespace gemel
