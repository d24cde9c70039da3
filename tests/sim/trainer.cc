// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"

namespace gemel::sim {
namespace {

constexpr Duration kCallWithin = 20s;
constexpr Duration kRestoreWithin = 60s;
constexpr Duration kRetryAfter = 100ms;
constexpr uint32_t kLayoutBytes = 1;
constexpr uint32_t kStaleTries = 45;  // of a rank that was told that it is superseded
constexpr uint32_t kStaleKinds = 3;   // of tries; the last asks for the epoch again
constexpr Duration kStaleWithin = 500ms;
constexpr Duration kStalePause = 1ms;
constexpr uint64_t kThousand = 1000;
constexpr uint64_t kDawdlesOneIn = 4;
constexpr uint64_t kDawdleMs = 300;

bool MayTryAgain(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable ||
         status.code() == absl::StatusCode::kDeadlineExceeded;
}

}  // namespace

Launch::Launch(Cluster* cluster, Oracle* oracle, JobPlan plan, std::vector<uint32_t> hosts,
               Random random)
    : cluster_(cluster),
      oracle_(oracle),
      calls_(oracle->calls()),
      plan_(std::move(plan)),
      hosts_(std::move(hosts)),
      random_(random),
      odd_(random.Split("odd")),
      dawdle_(random.Split("dawdle")),
      token_(EpochToken::Draw(&random_)),
      saves_in_flight_max_(static_cast<uint32_t>(random_.Below(2)) + 1) {
  GEMEL_CHECK(!hosts_.empty());
  for (uint32_t i = 0; i < hosts_.size(); ++i) {
    Rank& rank = ranks_.emplace_back();
    rank.process = oracle_->NextProcess();
    rank.node = cluster_->StartTrainer(hosts_[i]);
    rank.core = std::make_unique<ClientCore>(&rank.node->loop, &rank.node->net, &rank.node->host,
                                             Cluster::SocketOf(hosts_[i]));
  }
  for (uint32_t i = 0; i < hosts_.size(); ++i) {
    ranks_[i].node->loop.Spawn(Train(i));
  }
}

Launch::~Launch() { Kill(); }

void Launch::Kill() {
  alive_ = false;
  for (Rank& rank : ranks_) {
    if (rank.node != nullptr) {
      rank.node->world->Kill(rank.node->process);
      rank.node->loop.Kill();
      rank.core.reset();
      rank.node.reset();
    }
  }
}

bool Launch::CutOff(uint64_t draw) {
  const size_t rank = draw % ranks_.size();
  Node* node = ranks_[rank].node.get();
  if (!alive_ || node == nullptr || !node->process->alive() || !cluster_->server_up(hosts_[rank])) {
    return false;
  }
  cluster_->CutOff(node, hosts_[rank]);
  return true;
}

void Launch::Pause() {
  for (Rank& rank : ranks_) {
    if (rank.node != nullptr) {
      rank.node->loop.Pause();
    }
  }
}

void Launch::Resume() {
  for (Rank& rank : ranks_) {
    if (rank.node != nullptr) {
      rank.node->loop.Resume();
    }
  }
}

std::string Launch::At() const {
  std::string at;
  for (size_t rank = 0; rank < ranks_.size(); ++rank) {
    at += fmt::format("{}rank {} on {} at {}, {} in flight", at.empty() ? "" : ", ", rank,
                      Cluster::HostOf(hosts_[rank]), ranks_[rank].at, ranks_[rank].in_flight);
  }
  return at;
}

bool Launch::IsOn(uint32_t server) const {
  return alive_ && std::find(hosts_.begin(), hosts_.end(), server) != hosts_.end();
}

void Launch::Fail(uint32_t rank, const absl::Status& status) {
  if (status.code() == absl::StatusCode::kFailedPrecondition) {
    superseded_ = true;
  }
  if (!failed_) {
    failed_ = true;
    failure_ = Annotate(status, fmt::format("rank {}", rank));
    cluster_->Note(
        fmt::format("launch {} of {} fails: {}", token_.ToShort(), plan_.name, ToText(failure_)));
  }
}

Task<void> Launch::Think(uint32_t rank) {
  const auto microseconds = static_cast<int64_t>(random_.Below(20'000)) + 1;
  co_await ranks_[rank].node->loop.Sleep(std::chrono::microseconds(microseconds));
}

Task<void> Launch::Train(uint32_t rank) {
  // One call with all its repetitions: each unknown one by itself would double the search.
  const OperationIndex call = calls_->AcquireEpoch(ranks_[rank].process, plan_.name, token_);
  absl::StatusOr<EpochId> epoch = co_await Acquire(rank);
  calls_->Acquired(call, epoch);
  if (!epoch.ok()) {
    Fail(rank, epoch.status());
    co_return;
  }
  ranks_[rank].at = fmt::format("the restore of epoch {}", epoch->ToString());
  absl::StatusOr<uint64_t> step = co_await Restore(rank, *epoch);
  if (!step.ok()) {
    if (step.status().code() == absl::StatusCode::kDataLoss) {
      oracle_->ToldDataLoss(plan_.name, *epoch);
    }
    Fail(rank, step.status());
    co_await GoOnRegardless(rank, *epoch);
    co_return;
  }
  saving_ranks_ += 1;
  for (uint64_t next = *step + 1; !failed_; ++next) {
    co_await Think(rank);
    absl::Status saved = co_await Save(rank, *epoch, next);
    if (!saved.ok()) {
      Fail(rank, saved);
    }
  }
  co_await GoOnRegardless(rank, *epoch);
}

// A trainer that does not take no for an answer: every try of its epoch is to be refused.
Task<void> Launch::GoOnRegardless(uint32_t rank, EpochId epoch) {
  if (!superseded_) {
    co_return;
  }
  stubborn_ranks_ += 1;
  for (uint32_t attempt = 0; attempt < kStaleTries; ++attempt) {
    const EpochId newest = oracle_->newest_epoch(plan_.name);
    if (epoch >= newest) {
      break;  // refused for another reason
    }
    const absl::Status status = co_await TryStale(rank, epoch, attempt);
    const bool asks_for_epoch = attempt % kStaleKinds == kStaleKinds - 1;
    if (status.ok() && asks_for_epoch && IsForgotten(epoch, newest)) {
      break;  // a new launch, as far as anybody knows
    }
    if (status.ok()) {
      oracle_->Violation(
          fmt::format("fenced: try {} of epoch {} of {} was taken though epoch {} had begun",
                      attempt, epoch.ToString(), plan_.name, newest.ToString()));
    }
    oracle_->StaleTried(status);
    co_await ranks_[rank].node->loop.Sleep(kStalePause);
  }
  stubborn_ranks_ -= 1;
}

// The MetaStore was lost since, and with it the token, unless a server has something of it.
// `newest` is of before the answer: that may have been on its way while the store was lost once
// more.
bool Launch::IsForgotten(const EpochId& epoch, const EpochId& newest) const {
  return epoch.generation < std::max(newest, oracle_->newest_epoch(plan_.name)).generation;
}

// An open, a restore or the epoch itself, in turn.
Task<absl::Status> Launch::TryStale(uint32_t rank, EpochId epoch, uint32_t attempt) {
  Rank& self = ranks_[rank];
  const auto world = static_cast<uint32_t>(hosts_.size());
  const TimePoint deadline = Add(self.node->loop.Now(), kStaleWithin);
  switch (attempt % kStaleKinds) {
    case 0: {
      SaveOptions options;
      options.job = plan_.name;
      options.epoch = epoch;
      options.name = fmt::format("stale-{}", attempt);
      options.rank = rank;
      options.world_size = world;
      options.shard_bytes = 1;
      options.copies = plan_.copies;
      options.deadline = deadline;
      const auto writer = co_await ShardWriter::Open(self.core.get(), options);
      co_return writer.status();
    }
    case 1: {
      RestoreOptions options;
      options.job = plan_.name;
      options.epoch = epoch;
      options.rank = rank;
      options.world_size = world;
      options.deadline = deadline;
      const auto reader = co_await RestoreReader::Begin(self.core.get(), options);
      co_return reader.status();
    }
    default:
      co_return (co_await self.core->AcquireEpoch(plan_.name, token_, deadline)).status();
  }
}

Task<absl::StatusOr<EpochId>> Launch::Acquire(uint32_t rank) {
  Loop* loop = &ranks_[rank].node->loop;
  const TimePoint give_up = Add(loop->Now(), kRestoreWithin);
  while (true) {
    const TimePoint deadline = Add(loop->Now(), kCallWithin);
    absl::StatusOr<EpochId> epoch =
        co_await ranks_[rank].core->AcquireEpoch(plan_.name, token_, deadline);
    if (epoch.ok()) {
      oracle_->EpochAcquired(plan_.name, *epoch);
      co_return epoch;
    }
    if (!MayTryAgain(epoch.status()) || loop->Now() >= give_up) {
      co_return epoch;
    }
    co_await loop->Sleep(kRetryAfter);
  }
}

Task<absl::StatusOr<uint64_t>> Launch::Restore(uint32_t rank, EpochId epoch) {
  Loop* loop = &ranks_[rank].node->loop;
  const TimePoint give_up = Add(loop->Now(), kRestoreWithin);
  const OperationIndex call = calls_->Restore(ranks_[rank].process, plan_.name, epoch);
  while (true) {
    RestoreOptions options;
    options.job = plan_.name;
    options.epoch = epoch;
    options.rank = rank;
    options.world_size = static_cast<uint32_t>(hosts_.size());
    options.deadline = give_up;
    options.progress = [this, told = std::string()](const std::string& progress) mutable {
      if (progress != std::exchange(told, progress)) {
        cluster_->Note(
            fmt::format("launch {} of {} waits: {}", token_.ToShort(), plan_.name, progress));
      }
    };
    auto reader = co_await RestoreReader::Begin(ranks_[rank].core.get(), options);
    if (!reader.ok()) {
      co_return reader.status();
    }
    if (*reader == nullptr) {
      oracle_->Restored(plan_.name, epoch, rank, std::nullopt, false);
      calls_->Restored(call, std::optional<SnapshotId>(), false);
      co_return uint64_t{0};
    }
    absl::StatusOr<bool> verified = co_await RestoreOnce(rank, epoch, *reader, call);
    if (!verified.ok()) {
      co_return verified.status();
    }
    if (*verified) {
      co_return std::strtoull((*reader)->snapshot().name.c_str(), nullptr, 10);
    }
  }
}

Task<absl::StatusOr<bool>> Launch::RestoreOnce(uint32_t rank, EpochId epoch,
                                               std::shared_ptr<RestoreReader> reader,
                                               OperationIndex call) {
  Loop* loop = &ranks_[rank].node->loop;
  const auto saved_world = static_cast<uint32_t>(reader->shards().size());
  absl::Status read = absl::OkStatus();
  std::vector<uint32_t> unreadable;
  if (dawdle_.Chance(1, kDawdlesOneIn)) {  // the others have verified theirs when it reads
    co_await loop->Sleep(std::chrono::milliseconds(dawdle_.Below(kDawdleMs)));
  }
  // The same world reads its own shard, another world everything.
  for (uint32_t shard = 0; shard < saved_world; ++shard) {
    if (saved_world == hosts_.size() && shard != rank) {
      continue;
    }
    absl::Status status = co_await ReadShard(reader, shard);
    if (!status.ok()) {
      unreadable.push_back(shard);
      read.Update(status);
    }
  }
  if (read.ok()) {
    oracle_->Reporting(epoch, rank, reader->snapshot());
  }
  absl::Status reported =
      co_await reader->Report(read.ok(), unreadable, std::string(MessageOf(read)));
  if (!reported.ok()) {
    co_return reported;
  }
  const TimePoint deadline = Add(loop->Now(), kRestoreWithin);
  absl::StatusOr<RestoreEnd> end = co_await reader->AwaitEnd(deadline);
  if (!end.ok()) {
    co_return end.status();
  }
  const bool again = end->moved || end->read_again;
  if (again && dawdle_.Chance(1, 2)) {  // of a round that is over
    absl::Status late = co_await reader->Report(read.ok(), {}, std::string(MessageOf(read)));
    late.IgnoreError();
  }
  absl::Status released = co_await reader->Release();
  released.IgnoreError();
  if (!again) {
    const bool told_lost = !reader->lost().empty() || !end->lost.empty();
    oracle_->Restored(plan_.name, epoch, rank, reader->snapshot(), told_lost);
    calls_->Restored(call, std::optional<SnapshotId>(reader->snapshot()), told_lost);
  }
  co_return !again;
}

Task<absl::Status> Launch::ReadShard(std::shared_ptr<RestoreReader> reader, uint32_t shard) {
  std::vector<std::byte> bytes(reader->shards()[shard].bytes);
  GEMEL_CO_RETURN_IF_ERROR(co_await reader->Ensure(shard, 0, bytes.size()));
  GEMEL_CO_RETURN_IF_ERROR(reader->CopyOut(shard, 0, bytes));
  oracle_->CheckContent(reader->snapshot(), static_cast<uint32_t>(reader->shards().size()), shard,
                        bytes);
  co_return absl::OkStatus();
}

Task<absl::Status> Launch::Save(uint32_t rank, EpochId epoch, uint64_t step) {
  Rank& self = ranks_[rank];
  Loop* loop = &self.node->loop;
  const auto world = static_cast<uint32_t>(hosts_.size());
  const ShardPlace place{
      .job = plan_.name, .epoch = epoch, .step = step, .world = world, .rank = rank};
  std::vector<std::byte> content(oracle_->ShardBytes(place));
  Oracle::FillContent(place, content);
  SaveOptions options;
  options.job = plan_.name;
  options.epoch = epoch;
  options.name = std::to_string(step);
  options.attempt = static_cast<uint32_t>(step);
  options.rank = rank;
  options.world_size = world;
  options.shard_bytes = content.size();
  options.layout_bytes = kLayoutBytes;
  options.copies = plan_.copies;
  options.strategy = plan_.strategy;
  options.keep_latest = plan_.keep_latest;
  options.persist_every = plan_.persist_every;
  options.persist_copies = plan_.persist_copies;
  options.deadline = Add(loop->Now(), kRestoreWithin);
  options.save_timeout = 30s;
  const bool odd =
      world > 1 && plan_.odd_permille > 0 && odd_.Chance(plan_.odd_permille, kThousand);
  if (odd) {
    options.layout_hash = Digest128{.low = rank + 1, .high = step};
    oracle_->OddRankTried();
  }
  const OperationIndex open =
      calls_->Open(self.process, plan_.name, epoch, options.name, options.attempt);
  self.at = fmt::format("the open of {}@{} in epoch {}", plan_.name, step, epoch.ToString());
  auto writer = co_await ShardWriter::Open(self.core.get(), options);
  if (!writer.ok()) {
    co_return writer.status();
  }
  calls_->Opened(open, (*writer)->snapshot());
  if (odd) {
    oracle_->OddRank((*writer)->snapshot());
  }
  if ((*writer)->snapshot().epoch != epoch) {
    oracle_->Violation(fmt::format("fenced: a save of epoch {} was opened as {}", epoch.ToString(),
                                   (*writer)->snapshot().ToString()));
  }
  self.at = (*writer)->snapshot().ToString();
  ByteSpan rest(content);
  while (!rest.empty()) {
    const size_t piece = std::min<size_t>(rest.size(), 700 * kKiB);
    GEMEL_CO_RETURN_IF_ERROR((*writer)->Fill(rest.first(piece)));
    rest = rest.subspan(piece);
    co_await Think(rank);
  }
  const OperationIndex commit =
      calls_->Commit(self.process, plan_.name, epoch, (*writer)->snapshot().sequence);
  GEMEL_CO_RETURN_IF_ERROR(co_await (*writer)->Seal());
  self.in_flight += 1;
  loop->Spawn(AwaitCommit(rank, *writer, commit));
  while (self.in_flight >= saves_in_flight_max_ && !failed_) {
    co_await loop->Sleep(1ms);
  }
  co_return absl::OkStatus();
}

Task<void> Launch::AwaitCommit(uint32_t rank, std::shared_ptr<ShardWriter> writer,
                               OperationIndex commit) {
  const TimePoint deadline = Add(ranks_[rank].node->loop.Now(), kRestoreWithin);
  absl::StatusOr<SaveResult> result = co_await writer->AwaitCommit(deadline);
  ranks_[rank].in_flight -= 1;
  calls_->Committed(commit, result.status());
  if (!result.ok()) {
    Fail(rank, result.status());
    co_return;
  }
  oracle_->Committed(writer->snapshot(), result->redundancy_full);
}

}  // namespace gemel::sim
