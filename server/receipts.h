// SPDX-License-Identifier: Apache-2.0
//
// Receipts: tells placement what this server holds sealed, until placement has acknowledged it.
// What was sealed in one turn of the loop goes in one call.
//
// Thread safety: one loop.
// Ownership: Run() is spawned by the server and ends when the gate closes.
// Invariants:
//   (1) a receipt is forgotten only when a call that carried it was answered OK, or its object is
//       no longer here;
//   (2) at most one call is under way;
//   (3) none begins while they are held: a receipt that overtakes a join whose inventory does not
//       name its object would be counted, and then forgotten with the inventory before.
#pragma once

#include <functional>
#include <set>
#include <vector>

#include "common/sync.h"
#include "server/control.h"
#include "server/objects.h"

namespace gemel {

class Receipts {
 public:
  // Called with the holders still wanted for a shard of this server.
  using Retarget = std::function<void(const ShardId&, std::vector<PeerMember>)>;
  // Called when placement does not know this incarnation (any more).
  using NotMember = std::function<void()>;

  Receipts(const ServerSeams& seams, Control* control, const ObjectTable* objects);

  void OnRetarget(Retarget retarget) { retarget_ = std::move(retarget); }

  void OnNotMember(NotMember not_member) { not_member_ = std::move(not_member); }

  // REQUIRES: the object is sealed.
  void Add(const Object& object);
  // From before an inventory is made until placement has taken it.
  void Hold(bool held);
  Task<void> Run(Gate* gate);

  // Ends waits, so that Run() sees its gate.
  void Wake() { added_.NotifyAll(); }

  size_t pending() const { return pending_.size(); }

 private:
  Task<absl::Status> SendBatch();
  void Apply(const pb::ReportReceiptsReply& reply);

  const ServerSeams seams_;
  Control* const control_;
  const ObjectTable* const objects_;
  Retarget retarget_;
  NotMember not_member_;
  std::set<ShardId> pending_;
  bool held_ = false;
  uint64_t joins_ = 0;  // that began, and that ended
  WaitQueue added_;
};

}  // namespace gemel
