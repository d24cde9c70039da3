// SPDX-License-Identifier: Apache-2.0
//
// TcpAddress: "127.0.0.1:7611", "[::1]:7611" or "localhost:7611" of a tcp:// address.
//
// Thread safety: pure functions.
// Errors: InvalidArgument for text that is no address; PermissionDenied for one beyond this
// machine, because frames are neither encrypted nor authenticated until TLS exists.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace gemel {

struct TcpAddress {
  sockaddr_storage storage{};
  socklen_t bytes = 0;

  const sockaddr* generic() const { return reinterpret_cast<const sockaddr*>(&storage); }

  uint16_t port() const;
  // "127.0.0.1:7611".
  std::string HostAndPort() const;
  // "tcp://127.0.0.1:7611".
  std::string ToString() const;
};

// `host_and_port` without "tcp://". Port 0 lets the system choose (listeners only).
// Of any machine; InvalidArgument for a name.
absl::StatusOr<TcpAddress> ParseTcpAddress(std::string_view host_and_port);
absl::StatusOr<TcpAddress> ParseLoopbackAddress(std::string_view host_and_port);

// The address of a socket as getsockname() and getpeername() give it.
TcpAddress OwnAddressOf(int fd);
TcpAddress PeerAddressOf(int fd);

}  // namespace gemel
