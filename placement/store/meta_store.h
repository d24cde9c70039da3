// SPDX-License-Identifier: Apache-2.0
//
// MetaStore: the durable state of placement as ordered keys with compare-and-set transactions.
// Production: RocksdbStore (one manager), EtcdStore (several). Simulation: SimStore. One
// conformance suite runs over all (tests/unit/placement_store_conformance.cc).
//
// No leases and no watches: who leads is a key that is compared, and a standby looks at it again.
// So nothing here depends on a clock of the store's.
//
// Thread safety: one loop. Calls that are under way at the same time have no order among them; one
// that begins after another was answered sees what that one saw, or newer.
// Invariants:
//   (1) a transaction is applied whole or not at all; when Commit() answers `applied`, it is
//       durable;
//   (2) versions grow over the whole store: every applied transaction has a version above all
//       earlier ones, and each key it put carries that version;
//   (3) a store never answers from a state older than one that it has answered from. One that was
//       put back (an older backup) is noticed and takes nothing any more: DataLoss. This holds
//       within one opened store; what must hold over restarts is persisted elsewhere (the servers
//       keep cluster, generation and epochs).
// Errors of Commit():
//   Unknown            the outcome is not known, and it may even be applied later, within the time
//                      that a request can linger: read again, never reissue without a compare
//   ResourceExhausted  no space, or too much under way; not applied
//   Unavailable        the store does not answer; not applied
//   InvalidArgument    beyond the limits below, or the store's own; not applied
//   Cancelled          the store is closing; not known either, as far as it was begun
// Get() and List(): Unavailable, ResourceExhausted, Cancelled.
// All: DataLoss (3, or damage), FailedPrecondition (another store answers), PermissionDenied.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

#include "common/bytes.h"
#include "common/task.h"

namespace gemel {

// Limits of what every MetaStore takes, because etcd's defaults are 1.5 MiB a request and 128
// operations a transaction, and EtcdStore adds one of each kind. Beyond: InvalidArgument.
inline constexpr size_t kMetaKeyBytesMax = 1024;
inline constexpr size_t kMetaTxnBytesMax = kMiB;  // all keys and values together
inline constexpr size_t kMetaTxnOpsMax = 127;     // puts and deletes together; compares

struct Versioned {
  std::string value;
  uint64_t version = 0;  // of the transaction that put it

  friend bool operator==(const Versioned&, const Versioned&) = default;
};

struct Txn {
  struct Compare {
    std::string key;
    std::optional<uint64_t> version;  // above 0; absent: the key must not be there
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
  // All keys that begin with `prefix`, ascending by bytes, as they were at one moment.
  virtual Task<absl::StatusOr<std::vector<KeyValue>>> List(std::string prefix) = 0;
  virtual Task<absl::StatusOr<CommitResult>> Commit(Txn txn) = 0;
  // For messages: "RocksDB in /var/lib/gemel/placement".
  virtual std::string name() const = 0;
};

// InvalidArgument for an empty or too long key, one key put or deleted twice, a compare with
// version 0, or a transaction that is too big.
absl::Status CheckTxn(const Txn& txn);

}  // namespace gemel
