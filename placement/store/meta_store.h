// SPDX-License-Identifier: Apache-2.0
//
// MetaStore: the durable state of placement as ordered keys with compare-and-set transactions.
// Production: RocksdbStore (one manager). Simulation: SimStore. One conformance test runs over both
// (tests/unit/placement_store_test.cc).
//
// Thread safety: one loop.
// Invariants:
//   (1) a transaction is applied whole or not at all; when Commit() answers `applied`, it is
//       durable;
//   (2) versions grow over the whole store: every applied transaction has a version above all
//       earlier ones, and each key it put carries that version.
// Errors of Commit():
//   Unknown            the outcome is not known: read again, never reissue blindly
//   ResourceExhausted  no space; not applied
//   Unavailable        the store does not answer; not applied
//   Cancelled          the store is closing; not applied
// Get() and List(): Unavailable, Cancelled, DataLoss.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

#include "common/task.h"

namespace gemel {

// Limits of what a MetaStore takes; beyond: InvalidArgument.
inline constexpr size_t kMetaKeyBytesMax = 1024;
inline constexpr size_t kMetaTxnBytesMax = 64u << 20;

struct Versioned {
  std::string value;
  uint64_t version = 0;  // of the transaction that put it

  friend bool operator==(const Versioned&, const Versioned&) = default;
};

struct Txn {
  struct Compare {
    std::string key;
    std::optional<uint64_t> version;  // absent: the key must not be there
  };

  std::vector<Compare> compares;
  std::vector<std::pair<std::string, std::string>> puts;
  std::vector<std::string> deletes;  // of keys that may be absent
};

struct CommitResult {
  bool applied = false;  // false: a compare did not hold, nothing changed
  uint64_t version = 0;  // of this transaction, when applied
};

using KeyValue = std::pair<std::string, Versioned>;

class MetaStore {
 public:
  virtual ~MetaStore() = default;
  virtual Task<absl::StatusOr<std::optional<Versioned>>> Get(std::string key) = 0;
  // All keys that begin with `prefix`, ascending.
  virtual Task<absl::StatusOr<std::vector<KeyValue>>> List(std::string prefix) = 0;
  virtual Task<absl::StatusOr<CommitResult>> Commit(Txn txn) = 0;
  // For messages: "RocksDB in /var/lib/gemel/placement".
  virtual std::string name() const = 0;
};

// InvalidArgument for an empty or too long key, one key put twice, or a transaction that is too
// big.
absl::Status CheckTxn(const Txn& txn);

}  // namespace gemel
