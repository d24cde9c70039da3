// SPDX-License-Identifier: Apache-2.0
#include "bench/bare_sockets.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>

#include "common/check.h"

namespace gemel {

void TuneBare(int fd) {
  const int on = 1;
  GEMEL_CHECK_EQ(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), 0);
  static constexpr char kCubic[] = "cubic";  // as the fabric asks for
  static_cast<void>(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kCubic, sizeof kCubic - 1));
}

void WriteAll(int fd, const void* data, size_t size) {
  const auto* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);
    GEMEL_CHECK_GT(sent, 0) << "send: " << errno;
    at += sent;
    size -= static_cast<size_t>(sent);
  }
}

bool ReadAllOrEnd(int fd, void* data, size_t size) {
  auto* at = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t got = recv(fd, at, size, 0);
    if (got <= 0) {
      return false;
    }
    at += got;
    size -= static_cast<size_t>(got);
  }
  return true;
}

void ReadAll(int fd, void* data, size_t size) {
  GEMEL_CHECK(ReadAllOrEnd(fd, data, size)) << "recv: " << errno;
}

}  // namespace gemel
