// SPDX-License-Identifier: Apache-2.0
//
// KeeperService: what gemel-keeper is: holds descriptors for one server and hands them to its next
// life. It maps nothing, reads nothing and decides nothing about what lies in the memory.
//
// Thread safety: one loop.
// Ownership: owns its listener, sessions and what it keeps; all of it is closed with the service.
// Invariants:
//   (1) it keeps for one server (id and cluster), from the first hello to its end;
//   (2) an owner gives way only when its process is proven dead (ExitWatch of the handle in its
//       hello) and all that it had sent was read: a paused server may still write, so its memory
//       goes to nobody;
//   (3) at most kKeptItemsMax items and kSessionsMax connections.
// Errors: FailedPrecondition for another server, cluster, version or a living owner;
// ResourceExhausted at a bound; InvalidArgument for what makes no sense. Each names the way out.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/events.h"
#include "common/fields.h"
#include "common/sync.h"
#include "server/keeper/keeper_messages.h"
#include "transport/net.h"
#include "transport/session.h"

namespace gemel {

class KeeperService final : public SessionHandler {
 public:
  static constexpr size_t kSessionsMax = 16;  // more: the connection is closed
  // A killed process with much memory takes its time to end.
  static constexpr Duration kDeathPatience = 3s;

  struct Seams {
    Loop* loop = nullptr;
    Net* net = nullptr;
    Host* host = nullptr;
    EventSink* events = nullptr;
  };

  explicit KeeperService(const Seams& seams);
  ~KeeperService() override;

  // Listens. Errors as Net::Listen().
  absl::Status Start(const std::string& address);
  // Ends the connections and lets go of everything.
  void Stop();

  size_t items() const { return items_.size(); }

 private:
  struct Owner {
    std::string name;
    ServerId server;
    ClusterId cluster;
    Incarnation incarnation;
    uint64_t pid = 0;
    bool dead = false;
    std::shared_ptr<Session> session;  // null when it has ended
    std::unique_ptr<ExitWatch> watch;
  };

  Placement PlaceRequestPayload(Session* session, const FrameHeader& header,
                                std::string_view body) override;
  Task<Reply> Handle(std::shared_ptr<Session> session, IncomingRequest request) override;
  void OnSessionClosed(Session* session, const absl::Status& why) override;

  void Accept(std::unique_ptr<Connection> connection);
  Task<absl::StatusOr<Reply>> Dispatch(std::shared_ptr<Session> session, IncomingRequest request);
  Task<absl::StatusOr<Reply>> OnHello(std::shared_ptr<Session> session, IncomingRequest request);
  Task<absl::Status> AwaitOwnerGone(KeeperHello hello);
  absl::Status CheckOwner(const KeeperHello& hello) const;
  absl::Status TakeOver(const std::shared_ptr<Session>& session, const KeeperHello& hello,
                        const std::shared_ptr<SharedHandle>& process);
  absl::StatusOr<Reply> OnTake(const KeeperTake& take) const;
  absl::StatusOr<Reply> OnGive(const KeeperGive& give, const Handles& handles);
  absl::StatusOr<Reply> OnForget(const KeeperForget& forget);
  absl::Status CheckIsOwner(const Session* session) const;

  const Seams seams_;
  std::unique_ptr<Listener> listener_;
  std::vector<std::shared_ptr<Session>> sessions_;  // as they came; shared: as Session says
  Owner owner_;
  bool greeting_ = false;  // a hello is being decided: one at a time
  WaitQueue changed_;      // of owner_
  std::map<KeptName, std::shared_ptr<SharedHandle>> items_;
};

}  // namespace gemel
