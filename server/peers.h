// SPDX-License-Identifier: Apache-2.0
//
// Peers: the lanes from this server to others, a session each, and whom they lost.
//
// A member has one lane for each of its data addresses, or as many as fill it (LanesTo()). A
// session is used only after both sides said hello and each found the cluster and the incarnation
// it expected: what placement's map names is what answers.
//
// Thread safety: one loop.
// Ownership: sessions and lanes are shared with the calls on them. CloseAll() before destruction,
// or a loop that was shut down. Invariants:
//   (1) at most one connection attempt at a time on a lane; who wants any lane waits for the first;
//   (2) after a failed attempt the next one waits for the lane's retry delay (at most kBackoffMax);
//   (3) a peer is unreachable when none of its lanes is open, never while one is.
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
#include "transport/lane.h"
#include "transport/peer/messages.h"

namespace gemel {

class Peers final : private SessionHandler {
 public:
  Peers(const ServerSeams& seams, const Control* control, std::string name);
  ~Peers() override;

  // An open session to that incarnation of the member: of its first lane that is not late.
  // REQUIRES: not this server.
  Task<absl::StatusOr<std::shared_ptr<Session>>> SessionTo(PeerMember member, TimePoint deadline);

  // An open session as SessionTo() gives, if there is one now; null otherwise.
  std::shared_ptr<Session> FindSession(const PeerMember& member) const;

  // The open lane to that incarnation on which one more slice would be there first; null when none
  // has room. Lanes that are not open are opened meanwhile.
  std::shared_ptr<Lane> PickLane(const PeerMember& member);
  // Whether PickLane() may give one later: some lane is open or being opened.
  bool HasLanes(const PeerMember& member) const;
  size_t open_lanes(const PeerMember& member) const;
  // A lane with room, as soon as there is one. Errors as SessionTo().
  Task<absl::StatusOr<std::shared_ptr<Lane>>> LaneTo(PeerMember member, TimePoint deadline);
  // Until `deadline`, or until a lane of the member opened, ended, or has more room.
  Task<void> AwaitLane(ServerId member, TimePoint deadline);

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
  // A lane, and what opens it.
  struct Path {
    std::shared_ptr<Lane> lane;
    bool connecting = false;
    bool dropped = false;               // not the peer's any more
    std::shared_ptr<Session> greeting;  // says hello
    RetryDelay delay;
    TimePoint retry_at{};
    absl::Status last_error;
  };

  struct Peer {
    explicit Peer(Loop* loop) : changed(std::make_shared<WaitQueue>(loop)) {}

    std::string addresses;
    Incarnation incarnation;  // that the lanes lead to
    std::vector<std::shared_ptr<Path>> paths;
    std::shared_ptr<WaitQueue> changed;
  };

  absl::Status CheckNotDead(const PeerMember& member) const;
  Peer* PeerOf(ServerId server);
  const Peer* FindLanes(const PeerMember& member) const;
  void LeadTo(Peer* peer, const PeerMember& member);
  static bool IsConnecting(const Peer& peer);
  static size_t OpenLanesOf(const Peer& peer);
  std::shared_ptr<Session> FirstSession(const Peer& peer) const;
  bool StartPaths(Peer* peer, const PeerMember& member);
  Task<void> Connect(Peer* peer, std::shared_ptr<Path> path, PeerMember member);
  Task<absl::StatusOr<std::shared_ptr<Session>>> OpenSession(std::shared_ptr<Path> path,
                                                             PeerMember member, TimePoint deadline);
  absl::Status CheckGreeting(const Reply& reply, const PeerMember& member,
                             const std::string& address, Session* session) const;
  static void Drop(Peer* peer, const absl::Status& why);
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
  // False when this is gone: attempts that are under way end then.
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// FailedPrecondition, naming both, when the hello is not of our cluster or release.
absl::Status CheckPeerHello(const PeerHello& hello, const ClusterId& cluster);

}  // namespace gemel
