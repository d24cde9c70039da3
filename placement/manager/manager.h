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
// Several on one MetaStore: options.shared_store; one leads, the others wait (leadership.h).
// Errors: canonical codes of common/errors.h; FailedPrecondition is final for the caller's
// incarnation, epoch or cluster; Unavailable may be tried again; StandsBy(): not executed, another
// manager leads.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "common/control_protocol.h"
#include "common/events.h"
#include "common/ids.h"
#include "common/loop.h"
#include "common/metrics.h"
#include "common/random.h"
#include "common/sync.h"
#include "placement/manager/beliefs.h"
#include "placement/store/meta_store.h"
#include "transport/control/rpc.h"
#include "transport/net.h"

namespace gemel {

// Detection times (DESIGN section 5). A starved manager adds its own lag.
struct LivenessOptions {
  uint32_t heartbeat_ms = 100;
  Duration tick = 50ms;
  Duration suspect_after = 400ms;
  Duration dead_after = 800ms;  // of silence, when the member's data address does not answer
  Duration hang_after = 850ms;  // of silence, when it does: the process hangs
  Duration probe_timeout = 300ms;
  Duration startup_grace = 2s;    // members of a restarted manager have this long to join again
  Duration lag_max = 200ms;       // of the own loop; more is added to all times
  Duration forget_after = 10min;  // a dead member whose copies do not matter any more
};

// How managers on one store agree on a leader (placement/manager/leadership.h).
struct ElectionOptions {
  Duration beat_every = 150ms;
  Duration serve_for = 500ms;    // after the last beat began
  Duration takeover_after = 1s;  // of a beat that stands still
  Duration poll_every = 100ms;   // of a standby
};

struct PlacementOptions {
  std::string name = "placement";
  std::string address;        // where it is reached: told to whom asks a standby
  bool shared_store = false;  // other managers may be on it: elect
  ElectionOptions election;
  LivenessOptions liveness;
  uint32_t in_flight_max = 2;    // open snapshots of one job
  Duration save_deadline = 60s;  // when Open names none
  Duration save_deadline_max = 1h;
  Duration wait_max = 30s;  // a call is held at most this long
  // After a death, for shards that keep two copies or more: the server may come back with its own.
  Duration repair_wait = 2s;
  uint32_t control_protocol = kControlProtocolVersion;  // at most: an older release speaks less
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

class Leadership;
class PlacementCore;

class PlacementManager final : public RpcService {
 public:
  // Loads everything from the MetaStore; an empty one is the birth of a cluster, or with
  // recover_from_servers its recovery. FailedPrecondition when recovery meets a store with content;
  // otherwise the store's errors. With shared_store it returns at once, as a standby, and goes on
  // by itself.
  static Task<absl::StatusOr<std::unique_ptr<PlacementManager>>> Start(PlacementOptions options,
                                                                       PlacementSeams seams);
  ~PlacementManager() override;

  Task<absl::StatusOr<std::string>> Handle(std::shared_ptr<RpcCall> call, std::string method,
                                           std::string request) override;
  // Answers what is held with Unavailable, gives the leadership up, then returns when nobody is
  // inside.
  Task<void> Stop();

  // For tests and the binary's log line.
  std::string Describe() const;
  // Zero while a recovery has not heard the first server, and on a standby.
  ClusterId cluster() const;
  bool leads() const;
  // What it takes for true, for tests; nothing on a standby.
  PlacementBeliefs Beliefs() const;

 private:
  PlacementManager(PlacementOptions options, PlacementSeams seams);
  Task<absl::Status> StartAlone();
  Task<void> TakeTurns();
  Task<absl::Status> LeadOnce();

  const PlacementOptions options_;
  const PlacementSeams seams_;
  Gate gate_;
  std::unique_ptr<Leadership> leadership_;
  std::unique_ptr<PlacementCore> core_;  // null while it is a standby
  bool stopping_ = false;
};

}  // namespace gemel
