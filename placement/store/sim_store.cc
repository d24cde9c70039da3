// SPDX-License-Identifier: Apache-2.0
#include "placement/store/sim_store.h"

#include <algorithm>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

constexpr uint64_t kAll = 1000;
constexpr Duration kHungLook = 10ms;
constexpr Duration kAnswerLateMax = 2s;

void UndoIn(std::map<std::string, Versioned>* values, const SimStoreState::Undo& undo) {
  for (const auto& [key, before] : undo.values) {
    if (before.has_value()) {
      (*values)[key] = *before;
    } else {
      values->erase(key);
    }
  }
}

}  // namespace

void SimStoreState::RestoreBackup(size_t transactions) {
  for (size_t i = 0; i < transactions && !history.empty(); ++i) {
    UndoIn(&values, history.back());
    version = history.back().version;
    history.pop_back();
  }
  late.clear();
}

void SimStoreState::Lose() {
  values.clear();
  history.clear();
  late.clear();
  version = 0;
}

// What every call goes through: the way there, and what has become due meanwhile.
Task<absl::Status> SimStore::Reach(bool passes) {
  GEMEL_CHECK_LE(state_->latency_min.count(), state_->latency_max.count());
  const auto span = static_cast<uint64_t>((state_->latency_max - state_->latency_min).count());
  const auto extra = static_cast<Duration::rep>(state_->random.Below(span + 1));
  co_await loop_->Sleep(state_->latency_min + Duration(extra));
  while (hung_ && !passes) {
    co_await loop_->Sleep(kHungLook);
  }
  ApplyLate();
  bool unavailable = state_->unavailable || cut_;
  if (state_->unavailable_permille > 0) {
    unavailable = state_->random.Chance(state_->unavailable_permille, kAll) || unavailable;
  }
  if (state_->unavailable_next > 0) {
    state_->unavailable_next -= 1;
    unavailable = true;
  }
  if (unavailable) {
    co_return error::Unavailable("{} does not answer", name());
  }
  co_return CheckNotPutBack();
}

absl::Status SimStore::CheckNotPutBack() {
  if (state_->version >= seen_) {
    return absl::OkStatus();
  }
  return error::DataLoss(
      "{} answers from version {} after {} was seen: it was put back to an older backup", name(),
      state_->version, seen_);
}

void SimStore::ApplyLate() {
  const TimePoint now = loop_->Now();
  while (!state_->late.empty() && state_->late.front().due <= now) {
    const Txn txn = std::move(state_->late.front().txn);
    state_->late.pop_front();
    Apply(txn);
  }
}

// The newest state, or one that is some transactions behind, made in `older`.
const std::map<std::string, Versioned>& SimStore::ReadState(
    std::map<std::string, Versioned>* older) {
  const bool stale =
      state_->stale_permille > 0 && state_->random.Chance(state_->stale_permille, kAll);
  if (!stale || state_->history.empty()) {
    seen_ = state_->version;
    return state_->values;
  }
  *older = state_->values;
  uint64_t version = state_->version;
  const uint64_t behind = 1 + state_->random.Below(state_->history.size());
  auto undo = state_->history.rbegin();
  for (uint64_t i = 0; i < behind && undo->version >= seen_; ++i, ++undo) {
    UndoIn(older, *undo);
    version = undo->version;
  }
  GEMEL_CHECK_GE(version, seen_);
  seen_ = version;
  return *older;
}

Task<absl::StatusOr<std::optional<Versioned>>> SimStore::Get(std::string key) {
  const absl::Status reached = co_await Reach(false);
  GEMEL_CO_RETURN_IF_ERROR(reached);
  std::map<std::string, Versioned> older;
  const std::map<std::string, Versioned>& values = ReadState(&older);
  const auto found = values.find(key);
  if (found == values.end()) {
    co_return std::optional<Versioned>();
  }
  GEMEL_CHECK_LE(found->second.version, state_->version);
  co_return std::optional<Versioned>(found->second);
}

Task<absl::StatusOr<std::vector<KeyValue>>> SimStore::List(std::string prefix) {
  const absl::Status reached = co_await Reach(false);
  GEMEL_CO_RETURN_IF_ERROR(reached);
  std::map<std::string, Versioned> older;
  const std::map<std::string, Versioned>& values = ReadState(&older);
  std::vector<KeyValue> result;
  for (auto it = values.lower_bound(prefix); it != values.end(); ++it) {
    if (it->first.compare(0, prefix.size(), prefix) != 0) {
      break;
    }
    result.emplace_back(it->first, it->second);
  }
  co_return result;
}

bool SimStore::TellUnknown() {
  bool unknown = state_->random.Chance(state_->unknown_permille, kAll);
  if (state_->unknown_next > 0) {
    state_->unknown_next -= 1;
    unknown = true;
  }
  return unknown;
}

Task<absl::StatusOr<CommitResult>> SimStore::Commit(Txn txn) {
  GEMEL_CO_RETURN_IF_ERROR(CheckTxn(txn));
  const bool answered_late = hung_ && state_->random.Chance(1, 2);
  const absl::Status reached = co_await Reach(answered_late);
  GEMEL_CO_RETURN_IF_ERROR(reached);
  if (state_->full) {
    co_return error::ResourceExhausted("{} is full: free space on its disk", name());
  }
  if (TellUnknown()) {
    const size_t puts = txn.puts.size();
    if (state_->random.Chance(state_->unknown_applied_permille, kAll)) {
      Apply(txn);
    } else if (state_->unknown_late_permille > 0 && state_->late.size() < kSimLateMax &&
               state_->random.Chance(state_->unknown_late_permille, kAll)) {
      const auto after = static_cast<Duration::rep>(
          state_->random.Below(static_cast<uint64_t>(state_->late_max.count()) + 1));
      TimePoint due = Add(loop_->Now(), Duration(after));
      if (!state_->late.empty()) {
        due = std::max(due, state_->late.back().due);
      }
      state_->late.push_back({.due = due, .txn = std::move(txn)});
    }
    co_return error::Unknown("{}: the outcome of a transaction of {} puts is not known", name(),
                             puts);
  }
  const CommitResult result = Apply(txn);
  seen_ = state_->version;
  if (answered_late) {
    const auto late = static_cast<uint64_t>(kAnswerLateMax.count());
    late_answers_ += 1;
    co_await loop_->Sleep(Duration(static_cast<Duration::rep>(state_->random.Below(late))));
    late_answers_ -= 1;
  }
  co_return result;
}

CommitResult SimStore::Apply(const Txn& txn) {
  for (const Txn::Compare& compare : txn.compares) {
    const auto found = state_->values.find(compare.key);
    const bool present = found != state_->values.end();
    if (present != compare.version.has_value() ||
        (present && found->second.version != *compare.version)) {
      return {};
    }
  }
  SimStoreState::Undo undo{.version = state_->version, .values = {}};
  const auto remember = [&](const std::string& key) {
    const auto found = state_->values.find(key);
    undo.values[key] =
        found == state_->values.end() ? std::nullopt : std::optional<Versioned>(found->second);
  };
  const uint64_t version = ++state_->version;
  state_->transactions += 1;
  for (const auto& [key, value] : txn.puts) {
    remember(key);
    GEMEL_CHECK_LT(state_->values[key].version, version) << key;  // invariant (2)
    state_->values[key] = Versioned{value, version};
  }
  for (const std::string& key : txn.deletes) {
    remember(key);
    state_->values.erase(key);
  }
  state_->history.push_back(std::move(undo));
  if (state_->history.size() > kSimHistoryMax) {
    state_->history.pop_front();
  }
  if (state_->on_applied) {
    state_->on_applied(txn);
  }
  return {.applied = true, .version = version};
}

}  // namespace gemel
