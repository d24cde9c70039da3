// SPDX-License-Identifier: Apache-2.0
//
// FakeServer: the server of one host as a client sees it, on a real unix socket and a thread of its
// own: one rank, one copy, no placement. What a test wants otherwise it says by `faults`.
//
// Thread safety: construction, destruction, address(), faults and counts any thread; the rest its
// own loop.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/epoll_loop.h"
#include "common/fields.h"
#include "tests/unit/common_temporary_directory.h"
#include "transport/local/messages.h"
#include "transport/local/real_host.h"
#include "transport/real_net.h"
#include "transport/session.h"

namespace gemel {

class FakeServer final : public SessionHandler {
 public:
  static constexpr uint64_t kSlabBytes = 2 * kMiB;

  struct Faults {
    std::atomic<bool> hold_commits{false};   // every commit is "still open"
    std::atomic<bool> wrong_digests{false};  // of the chunks that are fetched
    std::atomic<bool> nothing_lost{false};   // a restore with unreadable shards never moves
    std::atomic<bool> skip{false};           // every open
    std::atomic<int> no_memory{0};           // questions for a stage that find none; < 0: all
    std::atomic<uint32_t> version{kClientProtocolVersion};
  };

  FakeServer();
  ~FakeServer() override;

  std::string address() const { return "unix://" + folder_.path() + "/server.sock"; }

  Faults faults;
  std::atomic<int> aborts{0};
  std::atomic<int> releases{0};
  std::atomic<int> drops{0};               // of stages
  std::atomic<int> unreadable_shards{0};   // named by the last report
  std::atomic<uint32_t> persist_every{0};  // of the last open
  std::atomic<uint32_t> persist_keep{0};
  std::atomic<int64_t> first_report_ms{-1};  // from the last open to the first chunks it told of

  // SessionHandler.
  Task<Reply> Handle(std::shared_ptr<Session> session, IncomingRequest request) override;

  void OnSessionClosed(Session* session, const absl::Status& /*why*/) override {
    given_.erase(session);
  }

 private:
  struct Object {
    SnapshotId snapshot;
    uint64_t bytes = 0;
    uint64_t layout_bytes = 0;
    std::vector<uint32_t> slabs;
    std::vector<Digest128> digests;
    Digest128 root;
    bool committed = false;
    StageId stage;
    bool stage_sealed = false;
  };

  void RunLoop();
  absl::StatusOr<Reply> Dispatch(Session* session, const IncomingRequest& request);
  absl::StatusOr<Reply> Hello(const IncomingRequest& request);
  absl::StatusOr<Reply> Open(Session* session, const OpenShard& message);
  absl::StatusOr<Reply> Stage(Session* session, const StageShard& message);
  absl::StatusOr<Reply> OpenStaged(const OpenShard& message);
  uint64_t NextUpload() const;
  // `message` with slabs for `object`, which is its upload from here on.
  template <typename Message>
  absl::StatusOr<Reply> Begun(Session* session, Object object, Message* message);
  absl::StatusOr<Reply> DispatchRead(Session* session, const IncomingRequest& request);
  absl::StatusOr<Reply> DispatchStage(Session* session, const IncomingRequest& request);
  // The object's slabs and their pieces.
  absl::StatusOr<std::vector<SlabPiece>> GiveSlabs(Session* session, Object* object, Reply* reply);
  absl::StatusOr<Reply> Filled(const ChunksFilled& message);
  absl::StatusOr<Reply> Seal(const SealShard& message);
  absl::StatusOr<Reply> Begin(const std::string& name);
  Reply List(const std::string& job) const;
  absl::StatusOr<Reply> Remove(const RemoveSnapshot& message);
  absl::StatusOr<Reply> Fetch(Session* session, const FetchChunks& message);
  // One piece of slab `slab`, with its memory when this connection has not been given it.
  SlabPiece Piece(Session* session, uint32_t slab, std::pair<uint64_t, uint64_t> range,
                  Reply* reply);

  TemporaryDirectory folder_;
  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<RealHost> host_;
  std::unique_ptr<RealNet> net_;
  std::unique_ptr<Listener> listener_;
  std::vector<std::shared_ptr<Session>> sessions_;  // shared with their calls
  std::map<Session*, std::set<uint32_t>> given_;
  std::vector<std::shared_ptr<SharedHandle>> slabs_;
  std::map<uint64_t, Object> uploads_;  // by number, in order of their opens
  TimePoint opened_at_{};               // the last of them
  std::atomic<bool> listening_{false};
  std::thread thread_;
};

}  // namespace gemel
