// SPDX-License-Identifier: Apache-2.0
//
// Check: is a history linearisable? That is, is there an order of its operations that keeps every
// "A ended before B began", and in which each one answers as the sequential model says? Unknown
// operations may take their place anywhere after they began, or none.
//
// Wing and Gong's search with memoised configurations (Lowe, "Testing for linearizability", 2017,
// section 4, "just-in-time linearisation"): the moments are walked in order with the set of all
// (state, operations that took effect early) that explain what was seen; an operation is placed
// only when its end asks for it. P-compositional (Horn and Kroening, 2015): the caller gives one
// object at a time (job_model.h, store_model.h split their histories).
//
// A Model has
//   using Call, using State               State: a value with operator<=>
//   State Initial() const
//   void Step(const State&, const Operation<Call>&, std::vector<State>* after) const
//       adds the states that may follow when the operation takes effect; none: it cannot here
//   static bool Alike(const Call&, const Call&)
//       of two unknown operations that are alike, the one that began first is placed first
//   static bool StaysIdle(const Call&)
//       where it is right and changes nothing, it would change nothing later either
//   std::string Describe(const Operation<Call>&) const, Describe(const State&) const
//
// Thread safety: pure functions. Bounded by steps of the model, not by time, so that a verdict is
// the same everywhere: beyond the bound the answer is kUndecided, never a guess.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "common/check.h"
#include "tests/sim/lincheck/history.h"

namespace gemel::sim {

struct CheckLimits {
  uint64_t steps_max = 20'000'000;
  size_t configurations_max = 200'000;  // at one moment
};

enum class Linearisable : uint8_t { kYes, kNo, kUndecided };

struct Verdict {
  Linearisable answer = Linearisable::kYes;
  // The operation that cannot be placed: an index of the history. All that ended before it can.
  size_t culprit = 0;
  // One order of the longest linearisable prefix, by index; empty unless kNo.
  std::vector<size_t> prefix;
  uint64_t steps = 0;
  std::string text;  // for people, of several lines; empty when kYes
};

namespace internal {

template <typename Model>
class Search {
 public:
  using Call = typename Model::Call;
  using State = typename Model::State;

  Search(const Model* model, const History<Call>* history, CheckLimits limits)
      : model_(model), history_(history), limits_(limits) {}

  Verdict Run();

 private:
  // A state and the pending operations that have taken effect in it, ascending. `order` is the
  // place of the last of them in orders_: how this configuration came to be, not what it is.
  struct Configuration {
    State state;
    std::vector<size_t> done;
    size_t order = 0;

    friend bool operator<(const Configuration& a, const Configuration& b) {
      const auto first = a.state <=> b.state;
      return first != 0 ? first < 0 : a.done < b.done;
    }
  };

  struct Placed {
    size_t operation = 0;
    size_t before = 0;  // in orders_; 0: none
  };

  using Configurations = std::set<Configuration>;

  // A configuration on the way to the wanted operation, with what was placed last.
  struct Node {
    Configuration configuration;
    State before{};
    size_t last = kNone;
  };

  static constexpr size_t kNone = std::numeric_limits<size_t>::max();

  void Walk();
  bool Return(size_t index);
  bool Explore(const Configuration& from, size_t wanted, Configurations* reached);
  bool Expand(const Node& node, size_t wanted, std::vector<Node>* next);
  bool AfterItsLike(const Configuration& from, size_t index) const;
  bool Redundant(const Node& node, size_t index, size_t wanted, const State& after);
  bool PlaceReader(Configuration* configuration, size_t wanted);
  void Place(Configuration* configuration, size_t operation, State state);
  void Settle();

  bool SpendStep() { return ++verdict_.steps <= limits_.steps_max; }

  Verdict Undecided(std::string why);
  Verdict Refuted(size_t culprit);

  const Operation<Call>& At(size_t index) const { return (*history_)[index]; }

  const Model* const model_;
  const History<Call>* const history_;
  const CheckLimits limits_;
  size_t detour_ = 0;            // operations beyond the fewest that explain an end
  std::vector<size_t> pending_;  // begun, not ended or not settled; ascending by index
  Configurations now_;
  std::vector<Placed> orders_{{}};
  std::vector<State> after_;
  Verdict verdict_;
};

// The moments of a history in order: (moment, index, is it the end).
struct Moment {
  uint64_t at = 0;
  size_t index = 0;
  bool end = false;
};

template <typename Call>
std::vector<Moment> MomentsOf(const History<Call>& history) {
  std::vector<Moment> moments;
  moments.reserve(2 * history.size());
  for (size_t i = 0; i < history.size(); ++i) {
    GEMEL_CHECK_LT(history[i].invoked, history[i].returned);
    moments.push_back({.at = history[i].invoked, .index = i});
    if (history[i].outcome != Outcome::kUnknown) {
      moments.push_back({.at = history[i].returned, .index = i, .end = true});
    }
  }
  // At one moment calls begin before others end: they overlap.
  std::sort(moments.begin(), moments.end(), [](const Moment& a, const Moment& b) {
    return std::tuple(a.at, a.end, a.index) < std::tuple(b.at, b.end, b.index);
  });
  return moments;
}

// First with the fewest early operations that explain each end, then with a few more: an order
// found so is an order. Only when there is none, with all.
template <typename Model>
Verdict Search<Model>::Run() {
  for (const size_t detour : {size_t{0}, size_t{1}, size_t{3}, kNone}) {
    detour_ = detour;
    pending_.clear();
    orders_.assign(1, Placed{});
    now_.clear();
    const uint64_t steps = verdict_.steps;
    verdict_ = Verdict{.steps = steps};
    now_.insert({.state = model_->Initial()});
    Walk();
    if (verdict_.answer == Linearisable::kYes) {
      break;
    }
  }
  return std::move(verdict_);
}

template <typename Model>
void Search<Model>::Walk() {
  for (const Moment& moment : MomentsOf(*history_)) {
    if (!moment.end) {
      pending_.insert(std::lower_bound(pending_.begin(), pending_.end(), moment.index),
                      moment.index);
      continue;
    }
    if (!Return(moment.index)) {
      verdict_ =
          Undecided(fmt::format("{} steps, of at most {}, and {} configurations, of at most {},"
                                " at operation {}",
                                verdict_.steps, limits_.steps_max, now_.size(),
                                limits_.configurations_max, moment.index));
    }
    if (verdict_.answer != Linearisable::kYes) {
      return;
    }
  }
}

// All configurations in which the operation has taken effect; false when the steps are used up.
template <typename Model>
bool Search<Model>::Return(size_t index) {
  Configurations reached;
  for (const Configuration& configuration : now_) {
    if (!Explore(configuration, index, &reached) || reached.size() > limits_.configurations_max) {
      return false;
    }
  }
  if (reached.empty()) {
    verdict_ = Refuted(index);
    return true;
  }
  pending_.erase(std::lower_bound(pending_.begin(), pending_.end(), index));
  now_ = std::move(reached);
  Settle();
  return true;
}

template <typename Model>
void Search<Model>::Place(Configuration* configuration, size_t operation, State state) {
  configuration->state = std::move(state);
  std::vector<size_t>& done = configuration->done;
  done.insert(std::lower_bound(done.begin(), done.end(), operation), operation);
  orders_.push_back({.operation = operation, .before = configuration->order});
  configuration->order = orders_.size() - 1;
}

// An operation that is right in this state, changes nothing and stays so is best placed at once: it
// takes nothing away from any later choice. False when there is none, or the steps are used up.
template <typename Model>
bool Search<Model>::PlaceReader(Configuration* configuration, size_t wanted) {
  for (const size_t index : pending_) {
    if (index == wanted || At(index).outcome == Outcome::kUnknown ||
        !Model::StaysIdle(At(index).call) ||
        std::binary_search(configuration->done.begin(), configuration->done.end(), index)) {
      continue;
    }
    after_.clear();
    if (!SpendStep()) {
      return false;
    }
    model_->Step(configuration->state, At(index), &after_);
    if (after_.size() == 1 && after_.front() == configuration->state) {
      Place(configuration, index, std::move(after_.front()));
      return true;
    }
  }
  return false;
}

// The next operation and the last one may change places, and that order is looked at: the wanted
// operation comes before all that need not precede it, others in the order of their indices.
template <typename Model>
bool Search<Model>::Redundant(const Node& node, size_t index, size_t wanted, const State& after) {
  if (node.last == kNone || (index != wanted && index > node.last)) {
    return false;
  }
  std::vector<State> first;
  model_->Step(node.before, At(index), &first);
  if (first.size() != 1) {
    return false;
  }
  std::vector<State> both;
  model_->Step(first.front(), At(node.last), &both);
  verdict_.steps += 2;
  return both.size() == 1 && both.front() == after;
}

template <typename Model>
bool Search<Model>::AfterItsLike(const Configuration& from, size_t index) const {
  for (const size_t earlier : pending_) {
    if (earlier == index) {
      break;
    }
    if (At(earlier).outcome == Outcome::kUnknown && At(index).outcome == Outcome::kUnknown &&
        Model::Alike(At(earlier).call, At(index).call) &&
        !std::binary_search(from.done.begin(), from.done.end(), earlier)) {
      return true;
    }
  }
  return false;
}

// Adds what one more operation makes of the node; false when the steps are used up.
template <typename Model>
bool Search<Model>::Expand(const Node& node, size_t wanted, std::vector<Node>* next) {
  const Configuration& from = node.configuration;
  for (const size_t index : pending_) {
    if (std::binary_search(from.done.begin(), from.done.end(), index) ||
        AfterItsLike(from, index)) {
      continue;
    }
    if (!SpendStep()) {
      return false;
    }
    after_.clear();
    model_->Step(from.state, At(index), &after_);
    const bool choice = after_.size() > 1;
    for (State& state : after_) {
      if (index != wanted && At(index).outcome == Outcome::kUnknown && state == from.state) {
        continue;  // it need not have happened
      }
      if (!choice && Redundant(node, index, wanted, state)) {
        continue;
      }
      Node placed{.configuration = from, .before = from.state, .last = choice ? kNone : index};
      Place(&placed.configuration, index, std::move(state));
      next->push_back(std::move(placed));
    }
  }
  return true;
}

template <typename Model>
bool Search<Model>::Explore(const Configuration& from, size_t wanted, Configurations* reached) {
  const size_t before = reached->size();
  Configurations seen;
  std::vector<Node> level = {{.configuration = from}};
  size_t beyond = 0;
  while (!level.empty() && (reached->size() == before || beyond <= detour_)) {
    beyond += reached->size() == before ? 0 : 1;
    std::vector<Node> next;
    for (Node& node : level) {
      Configuration& configuration = node.configuration;
      const auto own =
          std::lower_bound(configuration.done.begin(), configuration.done.end(), wanted);
      if (own != configuration.done.end() && *own == wanted) {
        configuration.done.erase(own);
        reached->insert(std::move(configuration));
        continue;
      }
      while (PlaceReader(&configuration, wanted)) {
        node.last = kNone;  // what was placed since saw the last one's state
      }
      if (seen.insert(configuration).second && !Expand(node, wanted, &next)) {
        return false;
      }
    }
    level = std::move(next);
    if (level.size() + seen.size() + reached->size() > limits_.configurations_max) {
      return false;
    }
  }
  return true;
}

// An unknown operation that has taken effect in every configuration is a choice no longer.
template <typename Model>
void Search<Model>::Settle() {
  std::vector<size_t> settled;
  for (const size_t index : now_.begin()->done) {
    const bool everywhere =
        At(index).outcome == Outcome::kUnknown &&
        std::all_of(now_.begin(), now_.end(), [index](const Configuration& configuration) {
          return std::binary_search(configuration.done.begin(), configuration.done.end(), index);
        });
    if (everywhere) {
      settled.push_back(index);
    }
  }
  if (settled.empty()) {
    return;
  }
  Configurations kept;
  for (Configuration configuration : now_) {
    std::erase_if(configuration.done, [&settled](size_t index) {
      return std::binary_search(settled.begin(), settled.end(), index);
    });
    kept.insert(std::move(configuration));
  }
  now_ = std::move(kept);
  std::erase_if(pending_, [&settled](size_t index) {
    return std::binary_search(settled.begin(), settled.end(), index);
  });
}

template <typename Model>
Verdict Search<Model>::Undecided(std::string why) {
  Verdict verdict = std::move(verdict_);
  verdict.answer = Linearisable::kUndecided;
  verdict.text = "undecided: " + std::move(why);
  return verdict;
}

template <typename Model>
Verdict Search<Model>::Refuted(size_t culprit) {
  constexpr size_t kLinesMax = 12;
  Verdict verdict = std::move(verdict_);
  verdict.answer = Linearisable::kNo;
  verdict.culprit = culprit;
  const Configuration& example = *now_.begin();
  for (size_t at = example.order; at != 0; at = orders_[at].before) {
    verdict.prefix.push_back(orders_[at].operation);
  }
  std::reverse(verdict.prefix.begin(), verdict.prefix.end());
  const auto line = [this](size_t index) {
    const Operation<Call>& operation = At(index);
    const std::string until =
        operation.returned == kNeverReturned ? "never" : fmt::format("{}", operation.returned);
    return fmt::format("  {:>6} [{}, {}] process {}: {}\n", index, operation.invoked, until,
                       operation.process, model_->Describe(operation));
  };
  verdict.text =
      fmt::format("not linearisable: operation {} cannot be placed\n{}", culprit, line(culprit));
  const size_t shown = std::min(kLinesMax, verdict.prefix.size());
  verdict.text +=
      fmt::format("the {} before it can, in one order ending with\n", verdict.prefix.size());
  for (size_t i = verdict.prefix.size() - shown; i < verdict.prefix.size(); ++i) {
    verdict.text += line(verdict.prefix[i]);
  }
  verdict.text += fmt::format("which leaves ({} such states)\n  {}\nbeside it were open\n",
                              now_.size(), model_->Describe(example.state));
  size_t lines = 0;
  for (const size_t index : pending_) {
    if (index != culprit && lines++ < kLinesMax) {
      verdict.text += line(index);
    }
  }
  return verdict;
}

}  // namespace internal

template <typename Model>
Verdict Check(const Model& model, const History<typename Model::Call>& history,
              CheckLimits limits = {}) {
  return internal::Search<Model>(&model, &history, limits).Run();
}

}  // namespace gemel::sim
