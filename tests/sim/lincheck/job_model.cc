// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/lincheck/job_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <tuple>

#include "common/check.h"
#include "common/errors.h"

namespace gemel::sim {
namespace {

constexpr std::array<const char*, 9> kKindNames = {
    "AcquireEpoch", "Open",    "Commit",          "Abort", "Restore",
    "Latest",       "Persist", "LatestPersisted", "Remove"};

bool Told(const Operation<JobCall>& operation) { return operation.outcome == Outcome::kTold; }

}  // namespace

void JobModel::Acquire(const State& state, const Operation<JobCall>& operation,
                       std::vector<State>* after) {
  const JobCall& call = operation.call;
  const auto known = state.counters.find(call.token);
  if (operation.outcome == Outcome::kRefused) {
    if (known != state.counters.end() && known->second < state.epoch.counter) {
      after->push_back(state);
    }
    return;
  }
  if (known != state.counters.end()) {
    // Asked again: the same answer, as long as it is the present epoch.
    if (!Told(operation) || (known->second == state.epoch.counter && call.epoch == state.epoch)) {
      after->push_back(state);
    }
    return;
  }
  State next = state;
  next.epoch = {.generation = state.epoch.generation, .counter = state.epoch.counter + 1};
  if (Told(operation)) {
    if (call.epoch.counter != next.epoch.counter ||
        call.epoch.generation < state.epoch.generation) {
      return;
    }
    next.epoch = call.epoch;
  }
  if (!call.token.IsZero()) {
    next.counters[call.token] = next.epoch.counter;
  }
  next.opened.clear();
  next.chosen.reset();
  next.removed = false;
  after->push_back(std::move(next));
}

void JobModel::Open(const State& state, const Operation<JobCall>& operation,
                    std::vector<State>* after) const {
  const JobCall& call = operation.call;
  if (call.epoch != state.epoch) {
    return;
  }
  const auto known =
      call.name.empty() ? state.opened.end() : state.opened.find({call.name, call.attempt});
  if (known != state.opened.end()) {
    if (!Told(operation) || call.sequence == known->second) {
      after->push_back(state);
    }
    return;
  }
  State next = state;
  next.last_sequence += 1;
  if (Told(operation) && ghosts_) {
    next.last_sequence = std::max(next.last_sequence, call.sequence);
  }
  if (Told(operation) && call.sequence != next.last_sequence) {
    return;
  }
  // A name that nobody was told of again may stand for several.
  next.opened[{call.name.empty() ? fmt::format("/{}", next.last_sequence) : call.name,
               call.attempt}] = next.last_sequence;
  after->push_back(std::move(next));
}

void JobModel::Commit(const State& state, const Operation<JobCall>& operation,
                      std::vector<State>* after) {
  const JobCall& call = operation.call;
  if (state.committed.contains(call.sequence)) {
    after->push_back(state);
    return;
  }
  const bool open =
      std::any_of(state.opened.begin(), state.opened.end(),
                  [&call](const auto& entry) { return entry.second == call.sequence; });
  if (call.epoch != state.epoch || !open || state.removed ||
      state.aborted.contains(call.sequence)) {
    return;
  }
  State next = state;
  next.committed.insert(call.sequence);
  next.latest = std::max(next.latest, call.sequence);
  after->push_back(std::move(next));
}

void JobModel::Restore(const State& state, const Operation<JobCall>& operation,
                       std::vector<State>* after) {
  const JobCall& call = operation.call;
  if (call.epoch != state.epoch || (!state.chosen.has_value() && !state.opened.empty())) {
    return;
  }
  const uint64_t newest = state.chosen.value_or(state.latest);
  State next = state;
  if (!Told(operation)) {
    next.chosen = newest;  // a choice of an older one is told by whoever reads it
    after->push_back(std::move(next));
    return;
  }
  const bool older = call.sequence < newest && call.lost &&
                     (call.sequence == 0 || state.committed.contains(call.sequence));
  if (call.sequence != newest && !older) {
    return;
  }
  next.chosen = call.sequence;
  after->push_back(std::move(next));
}

void JobModel::Step(const State& state, const Operation<Call>& operation,
                    std::vector<State>* after) const {
  const JobCall& call = operation.call;
  State next = state;
  switch (call.kind) {
    case JobCallKind::kAcquireEpoch:
      Acquire(state, operation, after);
      return;
    case JobCallKind::kOpen:
      Open(state, operation, after);
      return;
    case JobCallKind::kCommit:
      Commit(state, operation, after);
      return;
    case JobCallKind::kRestore:
      Restore(state, operation, after);
      return;
    case JobCallKind::kAbort:
      if (state.committed.contains(call.sequence)) {
        return;
      }
      next.aborted.insert(call.sequence);
      break;
    case JobCallKind::kLatest:
      if (Told(operation) && call.sequence != state.latest) {
        return;
      }
      break;
    case JobCallKind::kPersist:
      if (!state.committed.contains(call.sequence)) {
        return;
      }
      next.persisted = std::max(next.persisted, call.sequence);
      break;
    case JobCallKind::kLatestPersisted:
      if (Told(operation) && call.sequence != state.persisted) {
        return;
      }
      break;
    case JobCallKind::kRemove:
      next.committed.clear();
      next.latest = 0;
      next.persisted = 0;
      next.removed = true;
      break;
  }
  after->push_back(std::move(next));
}

std::string JobModel::Describe(const Operation<Call>& operation) const {
  const JobCall& call = operation.call;
  const auto kind = static_cast<size_t>(call.kind);
  GEMEL_CHECK_LT(kind, kKindNames.size());
  std::string text = kKindNames[kind];
  switch (call.kind) {
    case JobCallKind::kAcquireEpoch:
      text += fmt::format("(token {})", call.token.ToShort());
      break;
    case JobCallKind::kOpen:
      text +=
          fmt::format("(epoch {}, {} attempt {})", call.epoch.ToString(), call.name, call.attempt);
      break;
    case JobCallKind::kCommit:
    case JobCallKind::kAbort:
    case JobCallKind::kPersist:
      text += fmt::format("(epoch {}, sequence {})", call.epoch.ToString(), call.sequence);
      break;
    case JobCallKind::kRestore:
      text += fmt::format("(epoch {})", call.epoch.ToString());
      break;
    default:
      text += "()";
      break;
  }
  if (operation.outcome == Outcome::kUnknown) {
    return text + ": unknown";
  }
  if (operation.outcome == Outcome::kRefused) {
    return text + ": refused as superseded";
  }
  if (call.kind == JobCallKind::kAcquireEpoch) {
    return text + ": epoch " + call.epoch.ToString();
  }
  const bool reads = call.kind == JobCallKind::kOpen || call.kind == JobCallKind::kRestore ||
                     call.kind == JobCallKind::kLatest ||
                     call.kind == JobCallKind::kLatestPersisted;
  text += reads ? fmt::format(": sequence {}", call.sequence) : std::string(": told");
  return text + (call.lost ? ", newer ones are lost" : "");
}

std::string JobModel::Describe(const State& state) const {
  return fmt::format(
      "epoch {} of {} tokens, last sequence {}, {} opened in it, {} committed, latest {}, "
      "restored from {}, persisted {}{}",
      state.epoch.ToString(), state.counters.size(), state.last_sequence, state.opened.size(),
      state.committed.size(), state.latest,
      state.chosen.has_value() ? fmt::format("{}", *state.chosen) : "nothing yet", state.persisted,
      state.removed ? ", removed" : "");
}

std::map<std::string, History<JobCall>> SplitByJob(const History<JobCall>& history) {
  std::map<std::string, History<JobCall>> jobs;
  for (const Operation<JobCall>& operation : history) {
    jobs[operation.call.job].push_back(operation);
  }
  return jobs;
}

namespace {

// What was told in a history, to know which operations of unknown outcome could explain any of it.
class ToldInHistory {
 public:
  explicit ToldInHistory(const History<JobCall>& history);

  // It explains nothing that was told: a history with it is linearisable only if it is without.
  bool Useless(const Operation<JobCall>& operation) const;

  // Takes away what tells operations of unknown outcome apart and nobody was told: fewer choices.
  void MakeAlike(Operation<JobCall>* operation) const;

 private:
  using Save = std::tuple<EpochId, std::string, uint32_t>;

  static bool HasGap(const std::set<uint64_t>& numbers) {
    return !numbers.empty() && *numbers.rbegin() != numbers.size();  // they begin at 1
  }

  std::set<EpochToken> tokens_;
  std::set<uint64_t> counters_;
  std::set<uint64_t> opened_;
  std::set<Save> saves_;
  std::set<uint64_t> committed_;  // seen to be
  std::set<uint64_t> persisted_;
  std::set<EpochId> restored_;
  bool refused_ = false;  // for an epoch that came after
};

ToldInHistory::ToldInHistory(const History<JobCall>& history) {
  for (const Operation<JobCall>& operation : history) {
    const JobCall& call = operation.call;
    if (operation.outcome == Outcome::kUnknown) {
      continue;
    }
    switch (call.kind) {
      case JobCallKind::kAcquireEpoch:
        tokens_.insert(call.token);
        if (Told(operation)) {
          counters_.insert(call.epoch.counter);
        } else {
          refused_ = true;
        }
        break;
      case JobCallKind::kOpen:
        opened_.insert(call.sequence);
        saves_.insert({call.epoch, call.name, call.attempt});
        break;
      case JobCallKind::kRestore:
        restored_.insert(call.epoch);
        committed_.insert(call.sequence);
        break;
      case JobCallKind::kLatestPersisted:
        persisted_.insert(call.sequence);
        committed_.insert(call.sequence);
        break;
      default:
        committed_.insert(call.sequence);
        break;
    }
  }
}

bool ToldInHistory::Useless(const Operation<JobCall>& operation) const {
  const JobCall& call = operation.call;
  if (operation.outcome != Outcome::kUnknown) {
    return false;
  }
  switch (call.kind) {
    case JobCallKind::kAcquireEpoch:
      return !tokens_.contains(call.token) && !HasGap(counters_) && !refused_;
    case JobCallKind::kOpen:
      return !saves_.contains({call.epoch, call.name, call.attempt}) && !HasGap(opened_);
    case JobCallKind::kCommit:
      return !committed_.contains(call.sequence);
    case JobCallKind::kPersist:
      return !persisted_.contains(call.sequence);
    case JobCallKind::kRestore:
      return !restored_.contains(call.epoch);
    case JobCallKind::kLatest:
    case JobCallKind::kLatestPersisted:
    case JobCallKind::kAbort:
      return true;
    case JobCallKind::kRemove:
      return false;
  }
  return false;
}

void ToldInHistory::MakeAlike(Operation<JobCall>* operation) const {
  JobCall& call = operation->call;
  if (operation->outcome != Outcome::kUnknown) {
    return;
  }
  if (call.kind == JobCallKind::kAcquireEpoch && !tokens_.contains(call.token)) {
    call.token = EpochToken();
  } else if (call.kind == JobCallKind::kOpen &&
             !saves_.contains({call.epoch, call.name, call.attempt})) {
    call.name.clear();
    call.attempt = 0;
  }
}

}  // namespace

Verdict CheckJobs(const History<JobCall>& history, CheckLimits limits, bool ghosts) {
  Verdict worst;
  uint64_t steps = 0;
  for (auto& [job, part] : SplitByJob(history)) {
    const ToldInHistory told(part);
    std::erase_if(part, [&told](const auto& operation) { return told.Useless(operation); });
    for (Operation<JobCall>& operation : part) {
      told.MakeAlike(&operation);
    }
    Verdict verdict = gemel::sim::Check(JobModel(ghosts), part, limits);
    steps += verdict.steps;
    const bool worse =
        worst.answer == Linearisable::kYes ||
        (worst.answer == Linearisable::kUndecided && verdict.answer == Linearisable::kNo);
    if (verdict.answer != Linearisable::kYes && worse) {
      worst = std::move(verdict);
      worst.text = fmt::format("job {}: {}", job, worst.text);
    }
  }
  worst.steps = steps;
  return worst;
}

OperationIndex JobRecorder::AcquireEpoch(uint32_t process, std::string job, EpochToken token) {
  return recorder_.Invoke(
      process, {.kind = JobCallKind::kAcquireEpoch, .job = std::move(job), .token = token});
}

OperationIndex JobRecorder::Open(uint32_t process, std::string job, EpochId epoch, std::string name,
                                 uint32_t attempt) {
  return recorder_.Invoke(process, {.kind = JobCallKind::kOpen,
                                    .job = std::move(job),
                                    .epoch = epoch,
                                    .name = std::move(name),
                                    .attempt = attempt});
}

OperationIndex JobRecorder::Commit(uint32_t process, std::string job, EpochId epoch,
                                   uint64_t sequence) {
  return recorder_.Invoke(
      process,
      {.kind = JobCallKind::kCommit, .job = std::move(job), .epoch = epoch, .sequence = sequence});
}

OperationIndex JobRecorder::Restore(uint32_t process, std::string job, EpochId epoch) {
  return recorder_.Invoke(process,
                          {.kind = JobCallKind::kRestore, .job = std::move(job), .epoch = epoch});
}

OperationIndex JobRecorder::Latest(uint32_t process, std::string job) {
  return recorder_.Invoke(process, {.kind = JobCallKind::kLatest, .job = std::move(job)});
}

OperationIndex JobRecorder::Persist(uint32_t process, std::string job, uint64_t sequence) {
  return recorder_.Invoke(
      process, {.kind = JobCallKind::kPersist, .job = std::move(job), .sequence = sequence});
}

OperationIndex JobRecorder::Remove(uint32_t process, std::string job) {
  return recorder_.Invoke(process, {.kind = JobCallKind::kRemove, .job = std::move(job)});
}

void JobRecorder::Unknown(OperationIndex index) {
  recorder_.Return(index, Outcome::kUnknown, recorder_.Asked(index));
}

void JobRecorder::Acquired(OperationIndex index, const absl::StatusOr<EpochId>& answer) {
  JobCall call = recorder_.Asked(index);
  if (answer.ok()) {
    call.epoch = *answer;
    recorder_.Return(index, Outcome::kTold, std::move(call));
    return;
  }
  // An earlier try of the same call may have made the epoch that was superseded since.
  Unknown(index);
  const bool superseded = answer.status().code() == absl::StatusCode::kFailedPrecondition &&
                          MessageOf(answer.status()).find("superseded") != std::string_view::npos;
  if (superseded && index != kNotRecorded) {
    const uint32_t process = recorder_.history()[index].process;
    const OperationIndex refusal = recorder_.Invoke(process, call);
    recorder_.Return(refusal, Outcome::kRefused, std::move(call));
  }
}

void JobRecorder::Opened(OperationIndex index, const absl::StatusOr<SnapshotId>& answer) {
  if (!answer.ok()) {
    Unknown(index);
    return;
  }
  JobCall call = recorder_.Asked(index);
  call.sequence = answer->sequence;
  recorder_.Return(index, Outcome::kTold, std::move(call));
}

void JobRecorder::Committed(OperationIndex index, const absl::Status& answer) {
  Ended(index, answer, recorder_.Asked(index).sequence);
}

void JobRecorder::Restored(OperationIndex index,
                           const absl::StatusOr<std::optional<SnapshotId>>& answer,
                           bool newer_are_lost) {
  if (!answer.ok()) {
    Unknown(index);
    return;
  }
  JobCall call = recorder_.Asked(index);
  call.sequence = answer->has_value() ? (*answer)->sequence : 0;
  call.lost = newer_are_lost;
  recorder_.Return(index, Outcome::kTold, std::move(call));
}

void JobRecorder::Ended(OperationIndex index, const absl::Status& answer, uint64_t sequence) {
  if (!answer.ok()) {
    Unknown(index);
    return;
  }
  JobCall call = recorder_.Asked(index);
  call.sequence = sequence != 0 ? sequence : call.sequence;
  recorder_.Return(index, Outcome::kTold, std::move(call));
}

Verdict JobRecorder::Check(CheckLimits limits, bool ghosts) const {
  if (recorder_.whole()) {
    return CheckJobs(recorder_.history(), limits, ghosts);
  }
  Verdict verdict;
  verdict.answer = Linearisable::kUndecided;
  verdict.text = fmt::format("undecided: {} operations were not recorded, at most {} are",
                             recorder_.left_out(), kOperationsMax);
  return verdict;
}

}  // namespace gemel::sim
