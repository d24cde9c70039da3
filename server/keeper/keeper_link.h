// SPDX-License-Identifier: Apache-2.0
//
// KeeperLink: a server's end of its gemel-keeper: one connection, made anew when it breaks, and all
// that is kept there, so that a keeper that was restarted gets everything again.
//
// Thread safety: one loop.
// Ownership: outlives the server that uses it. Destroyed after its loop was shut down, or when
// nobody is inside.
// Invariants:
//   (1) items_ is what the server wants kept; what a connected keeper has follows it;
//   (2) a keeper that gives no answer within kGiveDeadline is lost: nobody waits for it any more.
// Errors: Take() as Keeper; Give() Unavailable while no keeper is connected.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/events.h"
#include "server/keeper/keeper.h"
#include "transport/net.h"
#include "transport/session.h"

namespace gemel {

class KeeperLink final : public Keeper, private SessionHandler {
 public:
  static constexpr Duration kFirstPatience = 5s;  // for a keeper that starts beside its server
  static constexpr Duration kGiveDeadline = 1s;
  static constexpr Duration kHelloDeadline = 5s;  // it waits for the former life's death

  KeeperLink(Loop* loop, Net* net, EventSink* events, std::string address);
  ~KeeperLink() override;

  std::string Where() const override;
  Task<absl::StatusOr<std::vector<KeptItem>>> Take(Taker taker) override;
  Task<absl::Status> Give(std::vector<KeptItem> items) override;
  void Forget(std::vector<KeptName> names) override;
  Task<void> Run(Gate* gate) override;

  void Wake() override { lost_.NotifyAll(); }

  bool connected() const { return session_ != nullptr && session_->open(); }

 private:
  Placement PlaceRequestPayload(Session* session, const FrameHeader& header,
                                std::string_view body) override;
  Task<Reply> Handle(std::shared_ptr<Session> session, IncomingRequest request) override;
  void OnSessionClosed(Session* session, const absl::Status& why) override;

  Task<absl::Status> Connect();
  Task<absl::Status> TakeAll();
  Task<absl::Status> GiveAll();
  static Task<absl::Status> SendGive(Loop* loop, std::shared_ptr<Session> session,
                                     std::vector<KeptItem> items);
  static Task<void> SendForget(Loop* loop, std::shared_ptr<Session> session,
                               std::vector<KeptName> names);

  Loop* const loop_;
  Net* const net_;
  EventSink* const events_;
  const std::string address_;
  Taker taker_;
  std::shared_ptr<Session> session_;  // shared: with calls under way
  std::map<KeptName, std::shared_ptr<SharedHandle>> items_;
  WaitQueue lost_;
};

}  // namespace gemel
