// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/lincheck/store_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>

#include "common/check.h"

namespace gemel::sim {
namespace {

bool HasPrefix(const std::string& key, const std::string& prefix) {
  return key.compare(0, prefix.size(), prefix) == 0;
}

// Keys as numbers, joined when one transaction names both.
class Parts {
 public:
  size_t Of(const std::string& key) {
    const auto [found, fresh] = numbers_.emplace(key, parents_.size());
    if (fresh) {
      parents_.push_back(found->second);
    }
    return Root(found->second);
  }

  void Join(size_t a, size_t b) { parents_[Root(a)] = Root(b); }

  const std::map<std::string, size_t>& numbers() const { return numbers_; }

 private:
  size_t Root(size_t number) {
    GEMEL_CHECK_LT(number, parents_.size());
    while (parents_[number] != number) {
      parents_[number] = parents_[parents_[number]];
      number = parents_[number];
    }
    return number;
  }

  std::map<std::string, size_t> numbers_;
  std::vector<size_t> parents_;
};

std::vector<std::string> KeysOf(const StoreCall& call) {
  std::vector<std::string> keys;
  if (call.kind == StoreCall::Kind::kGet) {
    keys.push_back(call.key);
  }
  for (const auto& [key, value] : call.found) {
    keys.push_back(key);
  }
  for (const Txn::Compare& compare : call.compares) {
    keys.push_back(compare.key);
  }
  for (const auto& [key, digest] : call.puts) {
    keys.push_back(key);
  }
  keys.insert(keys.end(), call.deletes.begin(), call.deletes.end());
  return keys;
}

// The keys of a list go to their parts, each with what was found of it there.
void SplitList(const Operation<StoreCall>& operation, Parts* parts,
               std::map<size_t, History<StoreCall>>* split) {
  const std::string& prefix = operation.call.key;
  std::map<size_t, std::map<std::string, StoreCall::Value>> found;
  const auto& numbers = parts->numbers();
  for (auto it = numbers.lower_bound(prefix); it != numbers.end() && HasPrefix(it->first, prefix);
       ++it) {
    const auto value = operation.call.found.find(it->first);
    auto& of_part = found[parts->Of(it->first)];
    if (value != operation.call.found.end()) {
      of_part.insert(*value);
    }
  }
  for (auto& [part, values] : found) {
    Operation<StoreCall> share = operation;
    share.call.found = std::move(values);
    (*split)[part].push_back(std::move(share));
  }
}

// (2) of MetaStore across all keys: of two applied transactions, the one that ended before the
// other began has the lower version, and no two have the same.
std::optional<std::pair<size_t, size_t>> VersionsOutOfOrder(const History<StoreCall>& history) {
  std::vector<size_t> by_version;
  for (size_t i = 0; i < history.size(); ++i) {
    if (history[i].outcome == Outcome::kTold && history[i].call.result.applied) {
      by_version.push_back(i);
    }
  }
  std::sort(by_version.begin(), by_version.end(), [&history](size_t a, size_t b) {
    return history[a].call.result.version < history[b].call.result.version;
  });
  // From the newest down: none may begin after one with a higher version has ended.
  uint64_t earliest_end = std::numeric_limits<uint64_t>::max();
  size_t earliest = 0;
  for (size_t i = by_version.size(); i-- > 0;) {
    const Operation<StoreCall>& operation = history[by_version[i]];
    const bool twice =
        i + 1 < by_version.size() &&
        history[by_version[i + 1]].call.result.version == operation.call.result.version;
    if (twice || operation.invoked > earliest_end) {
      return std::pair(by_version[i], twice ? by_version[i + 1] : earliest);
    }
    if (operation.returned < earliest_end) {
      earliest_end = operation.returned;
      earliest = by_version[i];
    }
  }
  return std::nullopt;
}

}  // namespace

// The version of a transaction that was not told is known now: that of all that it put.
void StoreModel::Learn(State* state, const std::string& key, uint64_t version) {
  const Kept known = state->keys.at(key);
  if (known.version != 0) {
    return;
  }
  for (auto& [other, kept] : state->keys) {
    if (kept.version == 0 && kept.writer == known.writer) {
      kept = {.digest = kept.digest, .version = version};
    }
  }
  state->newest = std::max(state->newest, version);
}

void StoreModel::Read(const State& state, const Operation<Call>& operation,
                      std::vector<State>* after) {
  const StoreCall& call = operation.call;
  if (operation.outcome != Outcome::kTold) {
    after->push_back(state);
    return;
  }
  const bool list = call.kind == StoreCall::Kind::kList;
  size_t there = 0;
  for (auto it = state.keys.lower_bound(call.key);
       it != state.keys.end() && HasPrefix(it->first, call.key); ++it) {
    there += list || it->first == call.key ? 1 : 0;
  }
  if (there != call.found.size()) {
    return;
  }
  State next = state;
  for (const auto& [key, value] : call.found) {
    const auto kept = next.keys.find(key);
    if (kept == next.keys.end() || kept->second.digest != value.digest ||
        !kept->second.MayBe(value.version)) {
      return;
    }
    Learn(&next, key, value.version);
  }
  after->push_back(std::move(next));
}

void StoreModel::Put(State* state, const Operation<Call>& operation) {
  const StoreCall& call = operation.call;
  const bool told = operation.outcome == Outcome::kTold;
  if (told) {
    state->newest = call.result.version;
    for (auto& [key, kept] : state->keys) {
      kept.below = kept.version == 0 && kept.below == 0 ? call.result.version : kept.below;
    }
  }
  for (const auto& [key, digest] : call.puts) {
    state->keys[key] =
        told ? Kept{.digest = digest, .version = call.result.version}
             : Kept{.digest = digest, .writer = operation.invoked, .above = state->newest};
  }
  for (const std::string& key : call.deletes) {
    state->keys.erase(key);
  }
}

void StoreModel::Commit(const State& state, const Operation<Call>& operation,
                        std::vector<State>* after) {
  const StoreCall& call = operation.call;
  const bool told = operation.outcome == Outcome::kTold;
  State next = state;
  bool may_hold = true;
  bool must_hold = true;
  for (const Txn::Compare& compare : call.compares) {
    const auto kept = next.keys.find(compare.key);
    const bool present = kept != next.keys.end();
    const bool differs = present != compare.version.has_value() ||
                         (present && !kept->second.MayBe(*compare.version));
    may_hold = may_hold && !differs;
    must_hold = must_hold && !differs && (!present || kept->second.version != 0);
    if (may_hold && present) {
      Learn(&next, compare.key, *compare.version);
    }
  }
  if (told && !call.result.applied) {
    if (!must_hold) {
      after->push_back(state);
    }
    return;
  }
  if (!may_hold || (told && call.result.version <= next.newest)) {
    return;  // versions grow
  }
  Put(&next, operation);
  after->push_back(std::move(next));
}

void StoreModel::Step(const State& state, const Operation<Call>& operation,
                      std::vector<State>* after) const {
  if (operation.outcome == Outcome::kRefused) {
    after->push_back(state);
  } else if (operation.call.kind == StoreCall::Kind::kCommit) {
    Commit(state, operation, after);
  } else {
    Read(state, operation, after);
  }
}

std::string StoreModel::Describe(const Operation<Call>& operation) const {
  const StoreCall& call = operation.call;
  std::string text;
  if (call.kind != StoreCall::Kind::kCommit) {
    text = fmt::format("{} {}:", call.kind == StoreCall::Kind::kGet ? "Get" : "List", call.key);
    for (const auto& [key, value] : call.found) {
      text += fmt::format(" {}={:.8}@{}", key, ToHex(value.digest), value.version);
    }
    return text + (call.found.empty() ? " nothing" : "");
  }
  text = "Commit if";
  for (const Txn::Compare& compare : call.compares) {
    text +=
        fmt::format(" {}@{}", compare.key,
                    compare.version.has_value() ? fmt::format("{}", *compare.version) : "absent");
  }
  text += " then";
  for (const auto& [key, digest] : call.puts) {
    text += fmt::format(" {}={:.8}", key, ToHex(digest));
  }
  for (const std::string& key : call.deletes) {
    text += fmt::format(" -{}", key);
  }
  switch (operation.outcome) {
    case Outcome::kUnknown:
      return text + ": unknown";
    case Outcome::kRefused:
      return text + ": an error, not applied";
    case Outcome::kTold:
      break;
  }
  return text + (call.result.applied ? fmt::format(": applied @{}", call.result.version)
                                     : std::string(": a compare does not hold"));
}

std::string StoreModel::Describe(const State& state) const {
  std::string text = fmt::format("{} keys, newest version {}:", state.keys.size(), state.newest);
  for (const auto& [key, kept] : state.keys) {
    text += fmt::format(" {}={:.8}@{}", key, ToHex(kept.digest),
                        kept.version != 0 ? fmt::format("{}", kept.version) : "unknown");
  }
  return text;
}

std::vector<History<StoreCall>> SplitByKeys(const History<StoreCall>& history) {
  Parts parts;
  for (const Operation<StoreCall>& operation : history) {
    const std::vector<std::string> keys = KeysOf(operation.call);
    for (const std::string& key : keys) {
      if (operation.call.kind == StoreCall::Kind::kCommit) {
        parts.Join(parts.Of(keys.front()), parts.Of(key));
      } else {
        parts.Of(key);
      }
    }
  }
  std::map<size_t, History<StoreCall>> split;
  for (const Operation<StoreCall>& operation : history) {
    if (operation.call.kind == StoreCall::Kind::kList) {
      SplitList(operation, &parts, &split);
      continue;
    }
    const std::vector<std::string> keys = KeysOf(operation.call);
    if (!keys.empty()) {
      split[parts.Of(keys.front())].push_back(operation);
    }
  }
  std::vector<History<StoreCall>> result;
  result.reserve(split.size());
  for (auto& [part, operations] : split) {
    result.push_back(std::move(operations));
  }
  return result;
}

Verdict CheckStore(const History<StoreCall>& history, CheckLimits limits) {
  Verdict worst;
  uint64_t steps = 0;
  const StoreModel model;
  for (const History<StoreCall>& part : SplitByKeys(history)) {
    Verdict verdict = gemel::sim::Check(model, part, limits);
    steps += verdict.steps;
    if (verdict.answer == Linearisable::kNo ||
        (verdict.answer == Linearisable::kUndecided && worst.answer == Linearisable::kYes)) {
      worst = std::move(verdict);
    }
    if (worst.answer == Linearisable::kNo) {
      break;
    }
  }
  const auto crossed = VersionsOutOfOrder(history);
  if (worst.answer != Linearisable::kNo && crossed.has_value()) {
    worst.answer = Linearisable::kNo;
    worst.culprit = crossed->first;
    worst.text =
        fmt::format("versions are not in the order of time: {} [{}, {}], but {} [{}, {}]",
                    model.Describe(history[crossed->first]), history[crossed->first].invoked,
                    history[crossed->first].returned, model.Describe(history[crossed->second]),
                    history[crossed->second].invoked, history[crossed->second].returned);
  }
  worst.steps = steps;
  return worst;
}

}  // namespace gemel::sim
