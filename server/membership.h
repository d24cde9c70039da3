// SPDX-License-Identifier: Apache-2.0
//
// Membership: this server's life in the cluster: it joins with its whole inventory (memory
// and disk), heartbeats,
// joins again when placement forgot it or its inventory shrank, and follows the map.
//
// Thread safety: one loop.
// Ownership: Run() and FollowMap() are spawned by the server and end when the gate closes.
// Invariants:
//   (1) one incarnation for the life of the process; joining again under it replaces what placement
//       believes of it;
//   (2) what was sealed while a join was under way is reported by a receipt after it, and not
//   before
//       it was answered;
//   (3) a placement of another cluster or of an older generation is never obeyed.
// Errors: Join() retries what may pass; FailedPrecondition and InvalidArgument are final and name
// the way out.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/sync.h"
#include "server/control.h"
#include "server/directives.h"
#include "server/identity.h"
#include "server/objects.h"
#include "server/peers.h"
#include "server/receipts.h"
#include "server/tier.h"

namespace gemel {

class Membership {
 public:
  struct Parts {
    Control* control = nullptr;
    Identity* identity = nullptr;
    SlabPool* pool = nullptr;
    ObjectTable* objects = nullptr;
    Peers* peers = nullptr;
    Receipts* receipts = nullptr;
    Tier* tier = nullptr;
    Directives* directives = nullptr;
  };

  struct Self {
    std::string name;
    std::string domain;
    std::string data_address;
  };

  // A rejoin was refused for good: the process shall end.
  using Fatal = std::function<void(const absl::Status&)>;

  Membership(const ServerSeams& seams, const Parts& parts);

  void SetSelf(Self self) { self_ = std::move(self); }

  void OnFatal(Fatal fatal) { fatal_ = std::move(fatal); }

  // Until it is accepted, refused for good, or `gate` closes (Cancelled).
  Task<absl::Status> Join(Gate* gate);
  // Joins again at the next turn: placement forgot us, or an object is gone.
  void RequestRejoin(std::string why);

  // Heartbeats, and joining again.
  Task<void> Run(Gate* gate);
  Task<void> FollowMap(Gate* gate);

  bool joined() const { return joined_; }

  // OK, or why that incarnation is not the member that the map knows.
  absl::Status CheckMember(const PeerHello& hello) const;

  uint64_t map_version() const { return map_version_; }

 private:
  Task<absl::Status> JoinOnce();
  pb::JoinRequest JoinRequest(std::set<ShardId>* reported) const;
  void Refused(const absl::Status& why);
  void CountBeat(const absl::Status& beaten);
  Task<absl::Status> Heartbeat();
  Task<absl::Status> AskMap();
  static bool IsFinal(const absl::Status& status);

  const ServerSeams seams_;
  const Parts parts_;
  Self self_;
  Fatal fatal_;
  bool joined_ = false;
  uint64_t joins_ = 0;  // tries of this incarnation
  // The claim of the leader that answered last: an inventory is made for one, so that no other
  // takes one that comes late.
  std::string leader_;
  bool rejoin_ = false;
  WaitQueue wake_;
  absl::StatusCode beaten_ = absl::StatusCode::kOk;  // of the last heartbeat: a change is told
  Duration interval_;
  TimePoint next_beat_{};
  uint32_t unanswered_ = 0;            // heartbeats in a row
  std::vector<ServerId> unreachable_;  // not yet told
  uint64_t map_version_ = 0;
  std::map<ServerId, PeerMember> map_;
  std::map<ServerId, Incarnation> replaced_;  // the last one that a newer map had no more
};

}  // namespace gemel
