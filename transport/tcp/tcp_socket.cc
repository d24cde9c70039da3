// SPDX-License-Identifier: Apache-2.0
#include "transport/tcp/tcp_socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "transport/outcome.h"
#include "transport/socket_listener.h"
#include "transport/stream_connection.h"
#include "transport/stream_socket.h"

namespace gemel {
namespace {

constexpr int kBacklog = 128;

absl::Status ConnectError(int error, const TcpAddress& address) {
  if (OutcomeOfErrno(error).outcome == Outcome::kPeerGone) {
    return error::Unavailable("nobody listens on {}: start the server, or correct the address",
                              address.ToString());
  }
  return StatusOfErrno(error, fmt::format("connecting to {}", address.ToString()));
}

int ErrorOf(int fd) {
  int error = 0;
  socklen_t bytes = sizeof(error);
  GEMEL_CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &bytes), 0);
  return error;
}

// TCP lets a socket connect to itself when the system gives it the very port it asks for.
bool ConnectedToItself(int fd, const TcpAddress& address) {
  return OwnAddressOf(fd).ToString() == address.ToString();
}

absl::Status TakenOr(int error, const TcpAddress& address) {
  if (error == EADDRINUSE) {
    return error::AlreadyExists(
        "{} is taken: another process listens there; stop it (ss -ltnp names it), choose another "
        "port, or 0 for any free one",
        address.ToString());
  }
  return StatusOfErrno(error, fmt::format("listening on {}", address.ToString()));
}

}  // namespace

absl::StatusOr<Descriptor> TcpSocket(const TcpAddress& address) {
  const int family = address.generic()->sa_family;
  Descriptor made(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!made.valid()) {
    return StatusOfErrno(errno, address.ToString());
  }
  return made;
}

TcpFabric::TcpFabric(EpollLoop* loop, EventSink* events, TcpOptions options)
    : loop_(loop),
      events_(events),
      options_(std::move(options)),
      by_reference_(options_.by_reference == SendByReference::kNever
                        ? nullptr
                        : std::make_shared<ReferencedSend>(options_.by_reference)) {
  GEMEL_CHECK(loop_ != nullptr);
}

void TcpFabric::Tune(int fd) {
  const int on = 1;
  GEMEL_CHECK_EQ(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)), 0);
  const std::string& wanted = options_.congestion_control;
  if (wanted.empty() || setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, wanted.data(),
                                   static_cast<socklen_t>(wanted.size())) == 0) {
    return;
  }
  const int error = errno;
  if (!fallback_told_ && events_ != nullptr) {
    events_->Emit(Severity::kWarning, "tcp_congestion_fallback",
                  fmt::format("the kernel refuses congestion control '{}' ({}); the system's "
                              "default is used: load the module or change the setting",
                              wanted, std::strerror(error)));
  }
  fallback_told_ = true;
}

Task<absl::StatusOr<Descriptor>> ConnectTcp(EpollLoop* loop, Descriptor connecting,
                                            TcpAddress address, TimePoint deadline) {
  int error = 0;
  if (connect(connecting.get(), address.generic(), address.bytes) != 0) {
    error = errno;
  }
  if (error == EINPROGRESS) {
    const bool ready = co_await AwaitSocket(loop, connecting.get(), EPOLLOUT, deadline);
    if (!ready) {
      co_return error::DeadlineExceeded("{} did not accept in time: is the server stopped?",
                                        address.ToString());
    }
    error = ErrorOf(connecting.get());
  }
  if (error == 0 && ConnectedToItself(connecting.get(), address)) {
    error = ECONNREFUSED;
  }
  if (error != 0) {
    co_return ConnectError(error, address);
  }
  co_return std::move(connecting);
}

absl::StatusOr<Descriptor> ListenTcp(Descriptor listening, const TcpAddress& address) {
  // Connections of a former server in TIME_WAIT do not hold the port; a live listener does.
  const int on = 1;
  GEMEL_CHECK_EQ(setsockopt(listening.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
  if (bind(listening.get(), address.generic(), address.bytes) != 0 ||
      listen(listening.get(), kBacklog) != 0) {
    return TakenOr(errno, address);
  }
  return listening;
}

Task<absl::StatusOr<std::unique_ptr<Connection>>> TcpFabric::Connect(std::string host_and_port,
                                                                     TimePoint deadline) {
  GEMEL_CO_ASSIGN_OR_RETURN(const TcpAddress address, ParseLoopbackAddress(host_and_port));
  GEMEL_CO_ASSIGN_OR_RETURN(Descriptor socket, TcpSocket(address));
  Tune(socket.get());
  GEMEL_CO_ASSIGN_OR_RETURN(Descriptor connected,
                            co_await ConnectTcp(loop_, std::move(socket), address, deadline));
  co_return ConnectionOf(std::move(connected), address.ToString());
}

std::unique_ptr<Connection> TcpFabric::ConnectionOf(Descriptor socket, std::string peer) {
  return std::make_unique<StreamConnection>(
      loop_, std::make_unique<SocketStream>(loop_, std::move(socket), by_reference_),
      std::move(peer), StreamConnection::Carries::kBytes);
}

absl::StatusOr<std::unique_ptr<Listener>> TcpFabric::Listen(const std::string& host_and_port,
                                                            Net::AcceptCallback accept) {
  GEMEL_ASSIGN_OR_RETURN(const TcpAddress address, ParseLoopbackAddress(host_and_port));
  GEMEL_ASSIGN_OR_RETURN(Descriptor socket, TcpSocket(address));
  Tune(socket.get());
  GEMEL_ASSIGN_OR_RETURN(Descriptor listening, ListenTcp(std::move(socket), address));
  SocketListener::Options options;
  options.address = OwnAddressOf(listening.get()).ToString();
  options.taken = [this, accept = std::move(accept)](Descriptor socket) {
    Tune(socket.get());
    std::string peer = PeerAddressOf(socket.get()).ToString();
    accept(ConnectionOf(std::move(socket), std::move(peer)));
    return absl::OkStatus();
  };
  return std::make_unique<SocketListener>(loop_, events_, std::move(listening), std::move(options));
}

}  // namespace gemel
