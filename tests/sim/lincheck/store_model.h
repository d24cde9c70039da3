// SPDX-License-Identifier: Apache-2.0
//
// StoreModel: what a MetaStore does, one call after the other (placement/store/meta_store.h): a
// transaction is applied when all its compares hold, whole, with a version above all earlier ones;
// a read gives what the newest applied transactions put.
//
// Keys that no transaction names together share nothing: SplitByKeys() gives the parts that are
// judged alone. A List() is a read of the keys of its prefix in each part. CheckStore() adds what
// goes across the parts: versions of transactions keep the order of real time.
//
// The store is empty when the recording begins. Values are kept by digest. Thread safety: values
// and pure functions.
#pragma once

#include <compare>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/digest.h"
#include "placement/store/meta_store.h"
#include "tests/sim/lincheck/check.h"
#include "tests/sim/lincheck/history.h"

namespace gemel::sim {

struct StoreCall {
  enum class Kind : uint8_t { kGet, kList, kCommit };

  // What a read found of a key.
  struct Value {
    Digest128 digest;
    uint64_t version = 0;

    friend auto operator<=>(const Value&, const Value&) = default;
  };

  Kind kind = Kind::kGet;
  std::string key;                     // of kGet; the prefix of kList
  std::map<std::string, Value> found;  // the answer of kGet and kList
  std::vector<Txn::Compare> compares;  // of kCommit
  std::vector<std::pair<std::string, Digest128>> puts;
  std::vector<std::string> deletes;
  CommitResult result;
};

class StoreModel {
 public:
  using Call = StoreCall;

  // The version of a transaction whose outcome was not told is learned by a read or a compare;
  // until then it is known to lie between those that were told before and after it.
  struct Kept {
    Digest128 digest;
    uint64_t version = 0;  // 0: not known yet, and then
    uint64_t writer = 0;   //   which transaction it was
    uint64_t above = 0;    //   its version is above this one
    uint64_t below = 0;    //   and below this one; 0: no bound

    bool MayBe(uint64_t other) const {
      return version != 0 ? version == other : other > above && (below == 0 || other < below);
    }

    friend auto operator<=>(const Kept&, const Kept&) = default;
  };

  struct State {
    std::map<std::string, Kept> keys;
    uint64_t newest = 0;  // version that was told

    friend auto operator<=>(const State&, const State&) = default;
    friend bool operator==(const State&, const State&) = default;
  };

  State Initial() const { return {}; }

  // Two transactions never put the same values.
  static bool Alike(const Call&, const Call&) { return false; }

  // A transaction that is told applied raises the version; one that is not, and a read, never do.
  static bool StaysIdle(const Call&) { return true; }

  void Step(const State& state, const Operation<Call>& operation, std::vector<State>* after) const;
  std::string Describe(const Operation<Call>& operation) const;
  std::string Describe(const State& state) const;

 private:
  static void Read(const State& state, const Operation<Call>& operation, std::vector<State>* after);
  static void Commit(const State& state, const Operation<Call>& operation,
                     std::vector<State>* after);
  static void Learn(State* state, const std::string& key, uint64_t version);
  static void Put(State* state, const Operation<Call>& operation);
};

// The parts of a history that share no key.
std::vector<History<StoreCall>> SplitByKeys(const History<StoreCall>& history);

// Judges all parts, and the versions across them.
Verdict CheckStore(const History<StoreCall>& history, CheckLimits limits = {});

}  // namespace gemel::sim
