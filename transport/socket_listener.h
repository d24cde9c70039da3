// SPDX-License-Identifier: Apache-2.0
//
// SocketListener: accepts connections of one listening stream socket, unix or tcp.
//
// Thread safety: the loop's thread.
// Ownership: owns the socket. `released` runs once, when it stops (a unix socket removes its file).
// Errors: a caller that may not connect is closed and told as an event; when descriptors run out,
// accepting pauses for kPauseWhenFull, and nothing else is disturbed.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "common/epoll_loop.h"
#include "common/events.h"
#include "transport/descriptor.h"
#include "transport/net.h"

namespace gemel {

constexpr Duration kPauseWhenFull = 100ms;

class SocketListener final : public Listener {
 public:
  // Makes a connection of an accepted socket, now or later, or says why that caller may not have
  // one.
  using Taken = std::function<absl::Status(Descriptor socket)>;

  struct Options {
    std::string address;
    Taken taken;
    std::function<void()> released;  // may be null
  };

  // REQUIRES: `socket` listens and is nonblocking. `events` may be null.
  SocketListener(EpollLoop* loop, EventSink* events, Descriptor socket, Options options);
  ~SocketListener() override;

  std::string address() const override { return options_.address; }

 private:
  void WatchSocket();
  void OnReady();
  void Pause(int error);
  void Report(std::string_view name, const absl::Status& why);

  EpollLoop* const loop_;
  EventSink* const events_;
  Descriptor socket_;
  const Options options_;
  Loop::TimerId resume_ = Loop::kNoTimer;
  // False once the destructor ran: `taken` may stop the listener.
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace gemel
