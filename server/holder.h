// SPDX-License-Identifier: Apache-2.0
//
// Holder: what other servers may ask of this one (docs/formats/messages.md): to keep copies of
// their shards, and to read what is sealed here. One file an event: holder_offer.cc (grants),
// holder_credit.cc (how much may come), holder_write.cc (placing), holder_seal.cc (fence, digest,
// receipt), holder_read.cc.
//
// Thread safety: one loop.
// Ownership: owns the sessions that others opened and the region table; borrows the rest.
// Invariants:
//   (1) a session is answered nothing but its hello before that was accepted;
//   (2) a shard has at most one open grant; a new offer of it ends the old one;
//   (3) the order at a seal is: close the region (fence), compare digests with the root, seal,
//       receipt, answer;
//   (4) no grant and no seal for an epoch below the highest that was seen of its job.
// Errors: as the peer gets them; each names shard, region or sizes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

#include "server/identity.h"
#include "server/objects.h"
#include "server/peers.h"
#include "server/receipts.h"
#include "server/tier.h"
#include "transport/admission.h"
#include "transport/peer/messages.h"
#include "transport/region.h"
#include "transport/session.h"

namespace gemel {

class Holder final : private SessionHandler {
 public:
  // Everything a holder works on.
  struct Parts {
    Control* control = nullptr;
    Identity* identity = nullptr;
    ObjectTable* objects = nullptr;
    Peers* peers = nullptr;
    Receipts* receipts = nullptr;
    Tier* tier = nullptr;
    Admission* admission = nullptr;
  };

  // Called with an object whose memory failed its digest.
  using Corrupt = std::function<void(const std::shared_ptr<Object>&, const absl::Status&)>;
  // What placement's map says of a server: OK, or why it is not to be believed.
  using CheckMember = std::function<absl::Status(const PeerHello&)>;

  Holder(const ServerSeams& seams, const Parts& parts);
  ~Holder() override;

  void OnCorrupt(Corrupt corrupt) { corrupt_ = std::move(corrupt); }

  void SetMemberCheck(CheckMember check) { check_member_ = std::move(check); }

  // A connection that the data listener accepted.
  void Accept(std::unique_ptr<Connection> connection);

  // Ends grants and staging of the shard, of the snapshot, or of lower epochs of the job.
  void DropStagingOf(const ShardId& shard);
  void DropStaging(const SnapshotId& snapshot);
  void DropStagingBelow(const std::string& job, const EpochId& epoch);
  // Ends all grants, their staging and all sessions: the incarnation is over, or the server stops.
  void EndAll(const absl::Status& why);

  size_t grants() const { return grants_.size(); }

  size_t sessions() const { return sessions_.size(); }

 private:
  struct SessionState {
    bool hello_done = false;
    PeerHello hello;
  };

  struct Granted {
    Grant grant;
    std::shared_ptr<Object> object;
  };

  // What a grant with a limit has of credit.
  struct Limited {
    uint64_t transfer = 0;
    std::shared_ptr<WaitQueue> risen;  // the credit, or the grant ended
  };

  Placement PlaceRequestPayload(Session* session, const FrameHeader& header,
                                std::string_view body) override;
  Task<Reply> Handle(std::shared_ptr<Session> session, IncomingRequest request) override;
  void OnSessionClosed(Session* session, const absl::Status& why) override;

  static SessionState* StateOf(Session* session);
  Task<absl::StatusOr<Reply>> Dispatch(std::shared_ptr<Session> session, IncomingRequest request);
  absl::StatusOr<Reply> OnHello(Session* session, const IncomingRequest& request);

  // holder_offer.cc
  Task<absl::StatusOr<Reply>> OnOffer(std::shared_ptr<Session> session, IncomingRequest request);
  absl::StatusOr<std::shared_ptr<Object>> StagingFor(const Offer& offer);
  absl::StatusOr<Reply> OnRevoke(const IncomingRequest& request);
  bool EndGrant(const ShardId& shard);

  // holder_credit.cc
  void LimitGrant(const Grant& grant, uint32_t chunks);
  void EndLimit(uint64_t region);
  absl::StatusOr<Limited> FindLimit(const FrameHeader& header) const;
  void CountArrival(uint64_t region);
  Reply CreditReply(uint64_t region) const;
  Task<absl::StatusOr<Reply>> OnAskCredit(IncomingRequest request);

  // holder_write.cc
  absl::StatusOr<Reply> OnWrite(Session* session, const IncomingRequest& request);

  // holder_seal.cc
  absl::StatusOr<Reply> OnPeerSeal(const IncomingRequest& request);
  absl::Status SealGrant(const PeerSeal& seal, const RegionTable::Closed& closed);

  // holder_read.cc
  Task<absl::StatusOr<Reply>> OnDescribe(IncomingRequest request);
  Task<absl::StatusOr<Reply>> OnRead(IncomingRequest request);
  absl::StatusOr<Reply> ReadMemory(const std::shared_ptr<Object>& object, uint32_t chunk);
  Task<absl::StatusOr<Reply>> ReadDisk(Read read, uint64_t bytes);

  const ServerSeams seams_;
  const Parts parts_;
  Corrupt corrupt_;
  CheckMember check_member_;
  RegionTable regions_;
  std::map<ShardId, Granted> grants_;
  std::map<uint64_t, Limited> limited_;             // by region; of grants that are open
  std::vector<std::shared_ptr<Session>> sessions_;  // in the order in which they were accepted
  // Why a payload was not placed, until its request is handled.
  std::map<std::pair<const Session*, uint64_t>, absl::Status> unplaced_;
};

}  // namespace gemel
