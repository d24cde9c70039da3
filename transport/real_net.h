// SPDX-License-Identifier: Apache-2.0
//
// RealNet: Net of this machine. The scheme of an address chooses the fabric: unix://PATH is `local`
// (handles), tcp://HOST:PORT is `tcp` (loopback only), verbs://HOST:PORT is `verbs` (RDMA).
//
// Thread safety: the loop's thread.
// Ownership: outlives its listeners and every Connect() in progress; connections may outlive it.
// Errors: as Net, local/unix_socket.h, tcp/tcp_socket.h and verbs/verbs_fabric.h; InvalidArgument
// for another scheme.
#pragma once

#include <memory>
#include <string>

#include "common/epoll_loop.h"
#include "common/events.h"
#include "transport/net.h"
#include "transport/tcp/tcp_socket.h"
#include "transport/verbs/verbs_fabric.h"

namespace gemel {

class RealNet final : public Net {
 public:
  struct Options {
    TcpOptions tcp;
    VerbsOptions verbs;
  };

  // `events` may be null: refused callers, exhausted descriptors and fallbacks are then not told.
  RealNet(EpollLoop* loop, EventSink* events, Options options);

  Task<absl::StatusOr<std::unique_ptr<Connection>>> Connect(std::string address,
                                                            TimePoint deadline) override;
  Task<absl::Status> Probe(std::string address, TimePoint deadline) override;
  absl::StatusOr<std::unique_ptr<Listener>> Listen(std::string address,
                                                   AcceptCallback accept) override;
  void AddMemory(MutableByteSpan memory) override;

 private:
  EpollLoop* const loop_;
  EventSink* const events_;
  TcpFabric tcp_;
  VerbsFabric verbs_;
};

}  // namespace gemel
