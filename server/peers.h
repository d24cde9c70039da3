// SPDX-License-Identifier: Apache-2.0
//
// Peers: the sessions that this server opened to others, one a peer, and whom they lost.
//
// A session is used only after both sides said hello and each found the cluster and the incarnation
// it expected: what placement's map names is what answers.
//
// Thread safety: one loop.
// Ownership: sessions are shared with the calls on them. CloseAll() before destruction, or a loop
// that was shut down.
// Invariants:
//   (1) at most one connection attempt to a peer at a time; others wait for its result;
//   (2) after a failed attempt the next one waits for the peer's retry delay (at most kBackoffMax).
// Errors: Unavailable (nobody there, broke, stopping), FailedPrecondition (another cluster, another
// incarnation than the one asked for), DeadlineExceeded.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/sync.h"
#include "server/control.h"
#include "transport/peer/messages.h"
#include "transport/session.h"

namespace gemel {

class Peers final : private SessionHandler {
 public:
  Peers(const ServerSeams& seams, const Control* control, std::string name);
  ~Peers() override;

  // An open session to that incarnation of the member. REQUIRES: not this server.
  Task<absl::StatusOr<std::shared_ptr<Session>>> SessionTo(PeerMember member, TimePoint deadline);

  // Members whose sessions were reset or could not be opened since the last call.
  std::vector<ServerId> TakeUnreachable();
  // Until `deadline`, or until a session was reset that TakeUnreachable() has not told.
  Task<void> AwaitReset(TimePoint deadline);

  // What the newest map calls dead, and what a newer incarnation of its server has replaced. Calls
  // that wait for one of them end now, not at their deadlines, and none begins until a later map
  // has it alive.
  void SetDead(std::set<Incarnation> dead);

  // Ends every session and refuses new ones.
  void CloseAll(const absl::Status& why);

  // After CloseAll(): under a new incarnation of this server.
  void Reopen() { closed_ = false; }

  PeerHello OwnHello() const;

 private:
  struct Peer {
    explicit Peer(Loop* loop) : changed(loop) {}

    std::shared_ptr<Session> session;
    Incarnation incarnation;  // of the session
    bool connecting = false;
    RetryDelay delay;
    TimePoint retry_at{};
    absl::Status last_error;
    WaitQueue changed;
  };

  Task<absl::Status> Connect(Peer* peer, PeerMember member, TimePoint deadline);
  Task<absl::StatusOr<std::shared_ptr<Session>>> OpenSession(PeerMember member, TimePoint deadline);
  Task<Reply> Handle(std::shared_ptr<Session> session, IncomingRequest request) override;
  void OnSessionClosed(Session* session, const absl::Status& why) override;

  const ServerSeams seams_;
  const Control* const control_;
  const std::string name_;
  bool closed_ = false;
  std::map<ServerId, std::unique_ptr<Peer>> peers_;
  std::set<ServerId> unreachable_;
  bool reset_ = false;  // a session, since unreachable_ was taken
  WaitQueue was_reset_;
  std::set<Incarnation> dead_;
};

// FailedPrecondition, naming both, when the hello is not of our cluster or release.
absl::Status CheckPeerHello(const PeerHello& hello, const ClusterId& cluster);

}  // namespace gemel
