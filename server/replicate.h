// SPDX-License-Identifier: Apache-2.0
//
// Replication: one copy of one upload at one holder (DESIGN section 3, steps 3 to 5).
//
//   Offer → grant → Write … Write, as chunks are filled, over all lanes (spray.h) → the local seal
//   → PeerSeal → VERIFIED
//
// A lane that fails costs what was under way on it. A try ends when no lane is left, or the holder
// refuses; it is repeated from its Offer: a holder whose answer was lost says already_sealed.
//
// Thread safety: one loop.
// Ownership: shares upload and copy; lives in the coroutine that drives it.
// Errors of TryOnce(): those of the peer and of the session; Aborted when the upload ended or the
// copy is not wanted any more.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"

#include "server/peers.h"
#include "server/seams.h"
#include "server/spray.h"
#include "transport/peer/messages.h"
#include "transport/session.h"

namespace gemel {

struct Upload;
struct UploadCopy;

class Replication {
 public:
  Replication(const ServerSeams& seams, Peers* peers, std::shared_ptr<Upload> upload,
              std::shared_ptr<UploadCopy> copy);

  // OK: the holder has sealed its copy under the upload's root.
  Task<absl::Status> TryOnce();

 private:
  // What the holder lets this try send.
  struct CreditState {
    uint32_t chunks = 0;  // different ones, ever
    uint32_t told = 0;    // chunks that the holder knows are wanted
    bool asking = false;
  };

  // The writes of one try. Shared with the tasks that send them.
  struct Stream {
    explicit Stream(std::shared_ptr<Upload> of);

    const std::shared_ptr<Upload> upload;
    Spray spray;
    CreditState credit;
    std::vector<uint8_t> failures;  // of each chunk
    absl::Status lane_error;        // the last
    absl::Status error;             // that ends the try
  };

  absl::Status CheckWanted() const;
  TimePoint DeadlineOf(Duration alone) const;
  Task<absl::StatusOr<OfferReply>> SendOffer(std::shared_ptr<Session> session);
  Task<absl::Status> StreamChunks(OfferReply grant);
  void SendChunk(std::shared_ptr<Stream> stream, std::shared_ptr<Lane> lane,
                 const OfferReply& grant, const Spray::Pick& pick);

  // One slice, as it was sent.
  struct Sent {
    uint32_t chunk = 0;
    bool fenced = false;  // after the client's last write
  };

  static Task<void> WriteChunk(ServerSeams seams, std::shared_ptr<Stream> stream,
                               std::shared_ptr<Lane> lane, Sent sent,
                               Task<absl::StatusOr<Reply>> call);
  static bool Judge(const absl::Status& outcome, uint32_t chunk, Stream* stream);
  void AskForCredit(const std::shared_ptr<Stream>& stream, const OfferReply& grant, uint32_t ready);
  static Task<void> RunAsk(ServerSeams seams, std::shared_ptr<Stream> stream,
                           std::shared_ptr<Session> session, Request request, TimePoint deadline);
  static absl::Status TakeCredit(const absl::StatusOr<Reply>& reply, Stream* stream);
  Request WriteRequest(const OfferReply& grant, const Spray::Pick& pick) const;
  Task<void> WriteAstray(std::shared_ptr<Session> session, OfferReply grant, uint32_t chunk);
  Task<absl::Status> WaitForSeal();
  Task<absl::Status> SealAtPeer(std::shared_ptr<Session> session, OfferReply grant);

  const ServerSeams seams_;
  Peers* const peers_;
  const std::shared_ptr<Upload> upload_;
  const std::shared_ptr<UploadCopy> copy_;
};

}  // namespace gemel
