// SPDX-License-Identifier: Apache-2.0
//
// EtcdStore: the MetaStore of several managers, on etcd's v3 API: Range and Txn, nothing else.
//
// Layout (docs/formats/records.md), below "/gemel/NAME/":
//   k/<key>  the value as it is; its version is etcd's mod_revision
//   v        put by every transaction: 16 random bytes of this opened store, u64 of the transaction
// Because every transaction puts `v`,
//   * each has a revision of its own, so that versions grow (MetaStore, 2) whatever it changes;
//   * one compare on `v` refuses a transaction on a backup, or on another etcd, that is older than
//     what this store has seen (MetaStore, 3), before anything is changed;
//   * after "no space" the history of `v` tells whether the transaction was applied all the same:
//     etcd applies the one that exceeds the quota, and answers with the error.
//
// Thread safety: one loop.
// Ownership: borrows loop and random until it is destroyed. Calls under way then end with
// Cancelled, and what they sent may be applied.
// Errors: as MetaStore. Reads are linearised. A restored backup that has grown beyond the highest
// revision seen here before it answers again is not told from the true one: stop every manager
// before a restore.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "common/random.h"
#include "placement/store/etcd_address.h"
#include "placement/store/meta_store.h"
#include "transport/control/grpc_channel.h"

namespace gemel {

// Calls under way; further ones are refused with ResourceExhausted.
inline constexpr size_t kEtcdOperationsMax = 1024;

class EtcdStore final : public MetaStore {
 public:
  struct Options {
    EtcdAddress address;
    std::optional<GrpcTls> tls;       // absent: loopback addresses only
    Duration attempt_timeout = 1s;    // of one call to one member
    Duration operation_timeout = 5s;  // of a read, and until a transaction is sent
    size_t page_keys = 512;           // of List(); halved where values are large
  };

  // Returns once a member has answered.
  static Task<absl::StatusOr<std::unique_ptr<EtcdStore>>> Open(Loop* loop, Random* random,
                                                               Options options);
  ~EtcdStore() override;

  Task<absl::StatusOr<std::optional<Versioned>>> Get(std::string key) override;
  Task<absl::StatusOr<std::vector<KeyValue>>> List(std::string prefix) override;
  Task<absl::StatusOr<CommitResult>> Commit(Txn txn) override;
  std::string name() const override;

  // "3.4.23", of a member.
  const std::string& etcd_version() const { return version_; }

 private:
  struct Core;

  EtcdStore(std::shared_ptr<Core> core, std::string version)
      : core_(std::move(core)), version_(std::move(version)) {}

  std::shared_ptr<Core> core_;  // shared: calls under way hold it
  std::string version_;
};

}  // namespace gemel
