// SPDX-License-Identifier: Apache-2.0
//
// PlacementManager: decides who keeps what, who is alive and which snapshots are committed (DESIGN
// sections 3 to 5). It answers the calls of proto/gemel/v1/placement.proto; bytes of objects never
// pass through it.
//
// Thread safety: one loop.
// Ownership: the seams outlive the manager. Handle()'s task must be run to its end or be destroyed
// with its loop. Stop() before the destructor, unless the loop was shut down (a kill).
// Durability: what a caller was told (an epoch, an open, a commit, a restore choice, an abort) is
// in the MetaStore first. Receipts, inventories and acknowledgements are soft: members report them
// again when they join a restarted manager.
// Errors: canonical codes of common/errors.h; FailedPrecondition is final for the caller's
// incarnation, epoch or cluster; Unavailable may be tried again.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "common/events.h"
#include "common/ids.h"
#include "common/loop.h"
#include "common/metrics.h"
#include "common/random.h"
#include "placement/store/meta_store.h"
#include "transport/control/rpc.h"
#include "transport/net.h"

namespace gemel {

// Detection times (DESIGN section 5). A starved manager adds its own lag.
struct LivenessOptions {
  uint32_t heartbeat_ms = 100;
  Duration tick = 50ms;
  Duration suspect_after = 400ms;
  Duration dead_after = 900ms;  // of silence, when the member's data address does not answer
  Duration hang_after = 950ms;  // of silence, when it does: the process hangs
  Duration probe_timeout = 300ms;
  Duration startup_grace = 2s;    // members of a restarted manager have this long to join again
  Duration lag_max = 200ms;       // of the own loop; more is added to all times
  Duration forget_after = 10min;  // a dead member whose copies do not matter any more
};

struct PlacementOptions {
  std::string name = "placement";
  LivenessOptions liveness;
  uint32_t in_flight_max = 2;    // open snapshots of one job
  Duration save_deadline = 60s;  // when Open names none
  Duration save_deadline_max = 1h;
  Duration wait_max = 30s;  // a call is held at most this long
  bool recover_from_servers = false;
  bool accept_loss = false;      // recover without a majority of the last members
  Duration recover_settle = 2s;  // how long members that are not needed are listened for
};

// What the manager stands on. All outlive it.
struct PlacementSeams {
  Loop* loop = nullptr;
  Random* random = nullptr;
  MetaStore* store = nullptr;
  Net* net = nullptr;
  EventSink* events = nullptr;
  MetricRegistry* metrics = nullptr;
};

class PlacementCore;

class PlacementManager final : public RpcService {
 public:
  // Loads everything from the MetaStore; an empty one is the birth of a cluster, or with
  // recover_from_servers its recovery. FailedPrecondition when recovery meets a store with content;
  // otherwise the store's errors.
  static Task<absl::StatusOr<std::unique_ptr<PlacementManager>>> Start(PlacementOptions options,
                                                                       PlacementSeams seams);
  ~PlacementManager() override;

  Task<absl::StatusOr<std::string>> Handle(std::shared_ptr<RpcCall> call, std::string method,
                                           std::string request) override;
  // Answers what is held with Unavailable, then returns when nobody is inside.
  Task<void> Stop();

  // For tests and the binary's log line.
  std::string Describe() const;
  // Zero while a recovery has not heard the first server.
  ClusterId cluster() const;

 private:
  explicit PlacementManager(std::unique_ptr<PlacementCore> core);
  std::unique_ptr<PlacementCore> core_;
};

}  // namespace gemel
