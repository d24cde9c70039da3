// SPDX-License-Identifier: Apache-2.0
//
// Link: one connection of this client to the server of its host, and what it gave: the server's
// identity and the slabs that are mapped here. When the connection is lost the Link is dead for
// ever; the next call makes a new one.
//
// Thread safety: the client's loop, except the bytes of mappings.
// Ownership: shared, because writers and readers keep the mappings they use alive after a
// reconnect.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

#include "client/core/device.h"
#include "common/fields.h"
#include "common/loop.h"
#include "common/status_macros.h"
#include "transport/host.h"
#include "transport/local/messages.h"
#include "transport/session.h"

namespace gemel {

// How much longer than a held call's wait_ms its reply may take.
constexpr Duration kCallGrace = 10s;
// The longest a call is held by the server before it answers "still waiting".
constexpr uint32_t kHoldMs = 1000;

class Link : public std::enable_shared_from_this<Link> {
 public:
  // Connects and says hello. Unavailable naming the address when no server listens there;
  // FailedPrecondition naming both versions for another protocol version.
  static Task<absl::StatusOr<std::shared_ptr<Link>>> Connect(Loop* loop, Net* net, Host* host,
                                                             std::string address,
                                                             TimePoint deadline);
  ~Link();

  bool open() const { return session_->open(); }

  const ClientHelloReply& server() const { return server_; }

  Loop* loop() const { return loop_; }

  void Close();

  // One request of `type`. A reply's handles go into the slab cache by way of `pieces`.
  template <typename ReplyMessage, typename RequestMessage>
  Task<absl::StatusOr<std::pair<ReplyMessage, Handles>>> Call(FrameType type,
                                                              RequestMessage message,
                                                              TimePoint deadline) {
    Request request;
    request.type = type;
    request.body = EncodeMessage(message);
    absl::StatusOr<Reply> reply =
        co_await session_->Call(std::move(request), MutableByteSpan(), deadline);
    if (!reply.ok()) {
      co_return Explain(reply.status());
    }
    if (!reply->status.ok()) {
      co_return reply->status;
    }
    absl::StatusOr<ReplyMessage> decoded = DecodeMessage<ReplyMessage>(reply->body);
    if (!decoded.ok()) {
      co_return decoded.status();
    }
    co_return std::make_pair(std::move(*decoded), std::move(reply->handles));
  }

  // Keeps the memory that came with `pieces`.
  absl::Status Keep(const std::vector<SlabPiece>& pieces, const Handles& handles);
  // Asks for the memory of `pieces` that the reply they came in had no room for.
  static Task<absl::Status> FetchOwed(std::shared_ptr<Link> link, std::vector<SlabPiece> pieces);
  // Maps the slabs of `pieces` that are not mapped yet, gives all of them `access`; their places in
  // order. REQUIRES: their memory was kept.
  absl::StatusOr<std::vector<MutableByteSpan>> Place(const std::vector<SlabPiece>& pieces,
                                                     Access access);
  // Drops the writable mappings of these slabs: one system call a slab (amendment 6).
  absl::Status MakeReadOnly(const std::vector<SlabPiece>& pieces);

  // Registers the slabs of `pieces` with `device`, each once while it is mapped: some ms a slab the
  // first time, so other work of the loop goes between them. False: the device refused one of them,
  // and will not be asked again. REQUIRES: they are mapped; the caller holds UseMemory().
  static Task<bool> Pin(std::shared_ptr<Link> link, std::vector<SlabPiece> pieces, Device* device);

  // Held by who fills or reads the mapped memory: none of it is unmapped meanwhile. Let go of on
  // the loop.
  std::shared_ptr<void> UseMemory() const { return use_; }

  // Unmaps everything, for good, when the connection has ended and nobody uses the memory. True
  // when nothing is mapped.
  bool GiveUpMemory();

 private:
  Link(Loop* loop, Host* host, std::string address)
      : loop_(loop), host_(host), address_(std::move(address)) {}

  absl::Status Explain(const absl::Status& status) const;
  absl::StatusOr<Mapping*> Find(const SlabPiece& piece, Access access);
  bool HasMemoryOf(const std::vector<SlabPiece>& pieces, uint32_t* missing) const;

  struct Slab {
    std::shared_ptr<SharedHandle> memory;  // until it is mapped
    std::unique_ptr<Mapping> mapping;
    std::optional<std::shared_ptr<void>> pin;  // null inside: refused. Goes before the mapping
  };

  Loop* const loop_;
  Host* const host_;
  const std::string address_;
  std::shared_ptr<Session> session_;
  ClientHelloReply server_;
  std::map<uint32_t, Slab> slabs_;
  std::vector<Slab> replaced_;  // still read by restores in progress
  // Shared: with those who use the memory; it only counts them.
  const std::shared_ptr<int> use_ = std::make_shared<int>(0);
  bool given_up_ = false;
};

}  // namespace gemel
