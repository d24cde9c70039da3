// SPDX-License-Identifier: Apache-2.0
//
// ClientCore: what a trainer's process says to the server of its host. The same code runs in the
// production library (on a background thread's loop) and in the simulator.
//
// Thread safety: one loop.
// Ownership: outlives its writers and readers' calls; they keep the Link they were made on.
// Errors: Unavailable when the server is gone (the next call connects anew); FailedPrecondition
// when the epoch was superseded: this process belongs to an earlier incarnation of the job and must
// stop.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "client/core/link.h"
#include "common/ids.h"
#include "common/sync.h"

namespace gemel {

// How long a server that was there is waited for: one that is started again takes its memory over
// from its keeper and hashes it first.
constexpr Duration kReconnectPatience = 10s;

class ClientCore {
 public:
  ClientCore(Loop* loop, Net* net, Host* host, std::string address)
      : loop_(loop), net_(net), host_(host), address_(std::move(address)), connected_(loop) {}

  ~ClientCore() { Close(); }

  ClientCore(const ClientCore&) = delete;
  ClientCore& operator=(const ClientCore&) = delete;

  // The present link, made anew when the last one was lost: then the server may take
  // kReconnectPatience to come back. Memory of lost links that nobody uses any more goes to it.
  Task<absl::StatusOr<std::shared_ptr<Link>>> Connected(TimePoint deadline);

  // Idempotent: the same token gives the same epoch. The token is kept for the job's saves and
  // restores.
  Task<absl::StatusOr<EpochId>> AcquireEpoch(std::string job, EpochToken token, TimePoint deadline);

  // What is committed of `job`, by rising order; nothing of a job that was never seen.
  Task<absl::StatusOr<std::vector<ListedSnapshot>>> List(std::string job, TimePoint deadline);

  // Removes every committed snapshot of that name. NotFound names what is there instead.
  Task<absl::Status> Remove(std::string job, std::string name, TimePoint deadline);

  // FailedPrecondition when the epoch of `job` was not acquired by this client.
  absl::StatusOr<EpochToken> TokenOf(const std::string& job) const;

  void Close();

  Loop* loop() const { return loop_; }

  const std::string& address() const { return address_; }

 private:
  struct LostLink {
    std::weak_ptr<Link> link;  // its memory may still be written or read
    uint64_t holder = 0;
  };

  Task<absl::Status> Reconnect(TimePoint deadline);
  Task<void> ReclaimLost();

  Loop* const loop_;
  Net* const net_;
  Host* const host_;
  const std::string address_;
  std::shared_ptr<Link> link_;
  bool connecting_ = false;
  WaitQueue connected_;
  std::vector<LostLink> lost_;
  std::map<std::string, EpochToken> tokens_;
};

// wait_ms of a held call that may last until `deadline`.
uint32_t HoldFor(Loop* loop, TimePoint deadline);

}  // namespace gemel
