// SPDX-License-Identifier: Apache-2.0
//
// The `tcp` fabric: connections over TCP, loopback only until TLS exists. Carries no handles.
//
// Thread safety: the loop's thread.
// Errors: those of ParseLoopbackAddress(); Unavailable when nobody listens; DeadlineExceeded;
// AlreadyExists when the port is taken.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "common/epoll_loop.h"
#include "common/events.h"
#include "transport/descriptor.h"
#include "transport/net.h"
#include "transport/tcp/referenced_send.h"
#include "transport/tcp/tcp_address.h"

namespace gemel {

struct TcpOptions {
  // Set on every socket: the system's default may be one that halves loopback (bbr). When the
  // kernel lacks it the system's default is used and the event "tcp_congestion_fallback" is told
  // once. Empty: leave the system's default.
  std::string congestion_control = "cubic";
  // Of chunks that are written to a peer. Other than kNever: the process ignores SIGPIPE.
  SendByReference by_reference = SendByReference::kNever;
};

// Nonblocking, of the family of `address`.
absl::StatusOr<Descriptor> TcpSocket(const TcpAddress& address);
// Errors of these two: as above.
Task<absl::StatusOr<Descriptor>> ConnectTcp(EpollLoop* loop, Descriptor socket, TcpAddress address,
                                            TimePoint deadline);
absl::StatusOr<Descriptor> ListenTcp(Descriptor socket, const TcpAddress& address);

// What both directions share; outlives every listener and Connect() in progress.
class TcpFabric {
 public:
  // `events` may be null.
  TcpFabric(EpollLoop* loop, EventSink* events, TcpOptions options);

  // `host_and_port` as in ParseLoopbackAddress().
  Task<absl::StatusOr<std::unique_ptr<Connection>>> Connect(std::string host_and_port,
                                                            TimePoint deadline);
  absl::StatusOr<std::unique_ptr<Listener>> Listen(const std::string& host_and_port,
                                                   Net::AcceptCallback accept);

 private:
  void Tune(int fd);
  std::unique_ptr<Connection> ConnectionOf(Descriptor socket, std::string peer);

  EpollLoop* const loop_;
  EventSink* const events_;
  const TcpOptions options_;
  const std::shared_ptr<ReferencedSend> by_reference_;  // shared by connections; null: never
  bool fallback_told_ = false;
};

}  // namespace gemel
