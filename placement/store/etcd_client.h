// SPDX-License-Identifier: Apache-2.0
//
// EtcdClient: reads and transactions on one etcd cluster of several members. Reads are linearised
// and go to another member when one does not answer. A transaction is sent to a member only once
// that has answered a read since its last failure, and it is sent again only when it is certain
// that it did not reach any.
//
// Thread safety: one loop.
// Ownership: shared with its calls under way, which may outlive the store that made it. Close()
// ends them. Borrows the loop.
// Invariants:
//   (1) all answers that are believed come from one etcd cluster, that of the first answer;
//   (2) an answer that is older than one seen before its call began is not believed: such a member
//       is left, and once no other is there the client takes nothing any more.
// Errors: as MetaStore; Range() also OutOfRange (the revision was compacted), ResourceExhausted
// (the answer is too large: ask for less). Txn(): ResourceExhausted means that etcd has no space,
// and that the transaction may be applied all the same.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/loop.h"
#include "gemel/etcd/rpc.pb.h"
#include "placement/store/etcd_errors.h"
#include "transport/control/grpc_channel.h"

namespace gemel {

class EtcdClient {
 public:
  struct Options {
    std::vector<std::string> members;  // "host:port"; REQUIRES: not empty
    std::optional<GrpcTls> tls;        // absent: loopback addresses only
    std::string probe_key;             // what is read before a transaction is sent
    std::string name;                  // for messages
    Duration attempt_timeout{};        // of one call to one member
    Duration operation_timeout{};      // of a read over all members
  };

  // PermissionDenied: an address beyond this machine without TLS. InvalidArgument: no address.
  static absl::StatusOr<std::shared_ptr<EtcdClient>> Create(Loop* loop, Options options);
  EtcdClient(const EtcdClient&) = delete;
  EtcdClient& operator=(const EtcdClient&) = delete;

  static Task<absl::StatusOr<etcdserverpb::RangeResponse>> Range(
      std::shared_ptr<EtcdClient> self, etcdserverpb::RangeRequest request);
  static Task<absl::StatusOr<etcdserverpb::TxnResponse>> Txn(std::shared_ptr<EtcdClient> self,
                                                             etcdserverpb::TxnRequest request);
  // Of the first member that says it.
  static Task<absl::StatusOr<std::string>> Version(std::shared_ptr<EtcdClient> self);

  // Calls under way, and later ones, end with Cancelled.
  void Close();
  // Takes nothing any more, because of `why`.
  absl::Status Distrust(absl::Status why);

  const std::string& name() const { return options_.name; }

 private:
  struct Member {
    std::unique_ptr<GrpcChannel> channel;  // null once closed
    bool answers = false;                  // a read since its last failure
  };

  // What the tries of one operation have met.
  struct Tries {
    TimePoint deadline;
    Duration pause;
    size_t failures = 0;
    std::vector<bool> wrong;               // members that answered what is not believed
    std::optional<TimePoint> wrong_since;  // all of them
    absl::Status last;
  };

  EtcdClient(Loop* loop, Options options) : loop_(loop), options_(std::move(options)) {}

  static Task<absl::StatusOr<std::string>> Ask(std::shared_ptr<EtcdClient> self, size_t member,
                                               std::string method, std::string request,
                                               TimePoint deadline);
  // The number of a member that has answered.
  static Task<absl::StatusOr<size_t>> Answering(std::shared_ptr<EtcdClient> self);
  // OK: try again. Otherwise the operation's end.
  static Task<absl::Status> NextTry(std::shared_ptr<EtcdClient> self, Tries* tries);

  absl::Status CheckUsable() const;
  absl::Status Believe(const etcdserverpb::ResponseHeader& header, size_t member, int64_t floor);
  absl::Status Failed(const absl::Status& why, size_t member, Tries* tries);
  void Leave(size_t member);
  Tries Begin() const;
  std::string Who(size_t member) const;

  Loop* const loop_;
  const Options options_;
  std::vector<Member> members_;
  size_t preferred_ = 0;
  uint64_t cluster_id_ = 0;  // of the etcd cluster; 0: none has answered
  int64_t revision_ = 0;     // the highest seen
  absl::Status trouble_;     // not OK: takes nothing any more
  bool closed_ = false;
};

}  // namespace gemel
