// SPDX-License-Identifier: Apache-2.0
//
// Replication: one copy of one upload at one holder (DESIGN section 3, steps 3 to 5).
//
//   Offer → grant → Write … Write, as chunks are filled, kWriteWindow outstanding → the local seal
//   → PeerSeal → VERIFIED
//
// A try that fails is repeated from its Offer: a holder whose answer was lost says already_sealed.
//
// Thread safety: one loop.
// Ownership: shares upload and copy; lives in the coroutine that drives it.
// Errors of TryOnce(): those of the peer and of the session; Aborted when the upload ended or the
// copy is not wanted any more.
#pragma once

#include <memory>

#include "absl/status/statusor.h"

#include "common/sync.h"
#include "server/peers.h"
#include "server/seams.h"
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
  // The writes of one try. Shared with the tasks that send them.
  struct Stream {
    Stream(Loop* loop, size_t window) : permits(loop, window) {}

    Semaphore permits;
    absl::Status error;
  };

  absl::Status CheckWanted() const;
  Task<absl::StatusOr<OfferReply>> SendOffer(std::shared_ptr<Session> session);
  Task<absl::Status> StreamChunks(std::shared_ptr<Session> session, OfferReply grant);
  static Task<void> WriteChunk(ServerSeams seams, std::shared_ptr<Upload> upload,
                               std::shared_ptr<Session> session, std::shared_ptr<Stream> stream,
                               Request request);
  Request WriteRequest(const OfferReply& grant, uint32_t chunk) const;
  Task<void> WriteAstray(std::shared_ptr<Session> session, OfferReply grant, uint32_t chunk);
  Task<absl::Status> WaitForSeal();
  Task<absl::Status> SealAtPeer(std::shared_ptr<Session> session, OfferReply grant);

  const ServerSeams seams_;
  Peers* const peers_;
  const std::shared_ptr<Upload> upload_;
  const std::shared_ptr<UploadCopy> copy_;
};

}  // namespace gemel
