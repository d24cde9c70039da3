// SPDX-License-Identifier: Apache-2.0
//
// ClientSession: one connection of one client process: its hello and what it may then ask. One file
// an event group: client_save.cc, client_stage.cc, client_restore.cc, client_read.cc;
// client_session.cc has hello and dispatch.
//
// Thread safety: one loop.
// Ownership: shared by ClientSessions and by the handlers that run.
// Invariants:
//   (1) nothing is answered before the hello was accepted;
//   (2) uploads and restores are found only by the session that opened them; what is staged and
//       sealed, which is named by bits that nobody guesses, by every session;
//   (3) a slab's handle is sent once; a piece without one whose handle is still owed (a reply has
//       room for kFrameHandlesMax) is followed by it in replies to PrepareSlabs.
// Errors: a request out of order or of an unknown id is FailedPrecondition or NotFound, never a
// crash.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/status/statusor.h"

#include "common/fields.h"
#include "server/control.h"
#include "server/identity.h"
#include "server/objects.h"
#include "server/recovery.h"
#include "server/restore.h"
#include "server/stages.h"
#include "server/uploads.h"
#include "transport/local/messages.h"
#include "transport/session.h"

namespace gemel {

// What the sessions of all clients work on.
struct ClientParts {
  Control* control = nullptr;
  Identity* identity = nullptr;
  SlabPool* pool = nullptr;
  ObjectTable* objects = nullptr;
  Uploads* uploads = nullptr;
  Restores* restores = nullptr;
  Stages* stages = nullptr;
  Recovery* recovery = nullptr;
  std::string server_name;
};

template <typename Message>
Reply ReplyWith(const Message& message) {
  Reply reply;
  reply.body = EncodeMessage(message);
  return reply;
}

class ClientSession final : public SessionHandler,
                            public std::enable_shared_from_this<ClientSession> {
 public:
  struct Owner {
    // Watches the process and gives it a holder. An error refuses the hello.
    std::function<Task<absl::StatusOr<HolderKey>>(uint64_t client, uint64_t pid,
                                                  std::shared_ptr<SharedHandle> process)>
        admit;
    std::function<void(uint64_t client, const std::vector<uint64_t>& holders)> reclaim;
    std::function<void(uint64_t client)> closed;
  };

  ClientSession(const ServerSeams& seams, const ClientParts& parts, uint64_t client);
  ~ClientSession() override;

  void Start(std::unique_ptr<Connection> connection, Owner owner);
  // Ends the connection without a further call to `owner.closed`.
  void Close(const absl::Status& why);

  // The process is dead or has left: uploads that are not sealing are aborted for all ranks, stages
  // that no snapshot took over dropped, restores released.
  void EndWork(const std::string& why);

  uint64_t client() const { return client_; }

 private:
  // An upload that the client opened. Its memory goes to no other shard before the client sealed or
  // gave it up, however it ended meanwhile: another thread of its process may be writing there.
  struct OpenUpload {
    std::weak_ptr<Upload> upload;
    std::shared_ptr<Object> writable;  // shared: with the upload and the table
  };

  Placement PlaceRequestPayload(Session* session, const FrameHeader& header,
                                std::string_view body) override;
  Task<Reply> Handle(std::shared_ptr<Session> session, IncomingRequest request) override;
  void OnSessionClosed(Session* session, const absl::Status& why) override;

  using Answer = Task<absl::StatusOr<Reply>>;
  Answer Dispatch(IncomingRequest request);
  Answer OnHello(IncomingRequest request);
  absl::StatusOr<Reply> OnReclaimSlabs(const ReclaimSlabs& request);

  // client_save.cc
  Answer OnAcquireEpoch(AcquireEpoch request);
  Answer OnOpenShard(OpenShard request);
  absl::StatusOr<Reply> Accepted(const OpenShard& request, const pb::OpenReply& answer);
  absl::StatusOr<std::shared_ptr<Upload>> StartUpload(const OpenShard& request,
                                                      const ShardId& shard,
                                                      const pb::OpenReply& answer);
  absl::StatusOr<Reply> OnPrepareSlabs(const PrepareSlabs& request);
  absl::StatusOr<Reply> OnChunksFilled(const ChunksFilled& request);
  Answer OnSealShard(SealShard request);
  Answer OnAwaitCommit(struct AwaitCommit request);
  Answer OnAbortShard(AbortShard request);
  absl::StatusOr<std::shared_ptr<Upload>> FindUpload(uint64_t upload) const;

  // client_stage.cc
  absl::StatusOr<Reply> OnStageShard(const StageShard& request);
  absl::StatusOr<Reply> OnSealStage(const SealStage& request);
  absl::StatusOr<Reply> OnDropStage(const DropStage& request);
  absl::StatusOr<std::shared_ptr<Stage>> FindStage(uint64_t upload) const;
  absl::Status CheckStage(const OpenShard& request) const;

  // client_restore.cc
  Answer OnBeginRestore(BeginRestore request);
  // The answer to a begin; releases it when the session closed meanwhile.
  Reply Begun(const BeginRestoreDone& done);
  Answer OnFetchChunks(FetchChunks request);
  Answer OnReportRestore(ReportRestore request);
  Answer OnAwaitRestore(AwaitRestore request);
  absl::StatusOr<Reply> OnReleaseRestore(const ReleaseRestore& request);

  // client_read.cc
  Answer OnBeginRead(BeginRead request);
  Answer OnListSnapshots(ListSnapshots request);
  Answer OnRemoveSnapshot(RemoveSnapshot request);

  // Adds the handles that this client has not got yet.
  void AttachHandles(std::vector<SlabPiece>* pieces, Handles* handles);

  const ServerSeams seams_;
  const ClientParts parts_;
  const uint64_t client_;
  std::shared_ptr<Session> session_;
  Owner owner_;
  bool hello_begun_ = false;
  bool hello_done_ = false;
  HolderKey holder_ = kServerHolder;
  uint64_t next_upload_ = 1;
  // Weak: an upload that ended gives its memory back, whoever still knows its number.
  std::map<uint64_t, OpenUpload> uploads_;
  std::map<uint64_t, std::weak_ptr<Stage>> staged_;  // likewise, by the same numbers
  std::set<uint32_t> sent_;
  std::set<uint32_t> owed_;
};

}  // namespace gemel
