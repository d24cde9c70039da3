// SPDX-License-Identifier: Apache-2.0
#include "transport/tcp/tcp_address.h"

#include <arpa/inet.h>

#include <array>
#include <charconv>
#include <cstring>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

constexpr uint32_t kLoopbackNetV4 = 127;
constexpr int kNetShiftV4 = 24;

absl::Status NotAnAddress(std::string_view text) {
  return error::InvalidArgument("'tcp://{}' is not of the form tcp://127.0.0.1:PORT", text);
}

absl::Status BeyondThisMachine(std::string_view text) {
  return error::PermissionDenied(
      "tcp://{} is not a loopback address: without TLS, which this version lacks, data would cross "
      "the network unprotected; use 127.0.0.1 or [::1]",
      text);
}

struct Split {
  std::string host;
  uint16_t port = 0;
};

absl::StatusOr<Split> SplitHostAndPort(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) {
    return NotAnAddress(text);
  }
  std::string_view host = text.substr(0, colon);
  const std::string_view digits = text.substr(colon + 1);
  Split split;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), split.port);
  if (error != std::errc() || end != digits.data() + digits.size()) {
    return NotAnAddress(text);
  }
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return NotAnAddress(text);
  }
  split.host = host == "localhost" ? "127.0.0.1" : std::string(host);
  return split;
}

bool IsLoopback(const TcpAddress& address) {
  if (address.storage.ss_family == AF_INET) {
    sockaddr_in v4{};
    std::memcpy(&v4, &address.storage, sizeof(v4));
    return ntohl(v4.sin_addr.s_addr) >> kNetShiftV4 == kLoopbackNetV4;
  }
  sockaddr_in6 v6{};
  std::memcpy(&v6, &address.storage, sizeof(v6));
  return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr) != 0;
}

TcpAddress AddressBy(int fd, decltype(getsockname)* ask) {
  TcpAddress address;
  address.bytes = sizeof(address.storage);
  if (ask(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.bytes) != 0) {
    return TcpAddress();  // the other side is gone already
  }
  GEMEL_CHECK_LE(address.bytes, sizeof(address.storage));
  return address;
}

}  // namespace

uint16_t TcpAddress::port() const {
  // Both families keep the port at the same place.
  static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
  sockaddr_in v4{};
  std::memcpy(&v4, &storage, sizeof(v4));
  return ntohs(v4.sin_port);
}

std::string TcpAddress::HostAndPort() const {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (storage.ss_family == AF_INET) {
    sockaddr_in v4{};
    std::memcpy(&v4, &storage, sizeof(v4));
    GEMEL_CHECK(inet_ntop(AF_INET, &v4.sin_addr, text.data(), text.size()) != nullptr);
    return fmt::format("{}:{}", text.data(), port());
  }
  if (storage.ss_family == AF_INET6) {
    sockaddr_in6 v6{};
    std::memcpy(&v6, &storage, sizeof(v6));
    GEMEL_CHECK(inet_ntop(AF_INET6, &v6.sin6_addr, text.data(), text.size()) != nullptr);
    return fmt::format("[{}]:{}", text.data(), port());
  }
  return "(gone)";
}

std::string TcpAddress::ToString() const { return "tcp://" + HostAndPort(); }

absl::StatusOr<TcpAddress> ParseTcpAddress(std::string_view host_and_port) {
  GEMEL_ASSIGN_OR_RETURN(const Split split, SplitHostAndPort(host_and_port));
  TcpAddress address;
  sockaddr_in v4{};
  sockaddr_in6 v6{};
  if (inet_pton(AF_INET, split.host.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(split.port);
    std::memcpy(&address.storage, &v4, sizeof(v4));
    address.bytes = sizeof(v4);
    return address;
  }
  if (inet_pton(AF_INET6, split.host.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(split.port);
    std::memcpy(&address.storage, &v6, sizeof(v6));
    address.bytes = sizeof(v6);
    return address;
  }
  return error::InvalidArgument(
      "'{}' is a name: where it leads is not ours to believe, give the "
      "address",
      host_and_port);
}

absl::StatusOr<TcpAddress> ParseLoopbackAddress(std::string_view host_and_port) {
  GEMEL_RETURN_IF_ERROR(SplitHostAndPort(host_and_port).status());
  const absl::StatusOr<TcpAddress> parsed = ParseTcpAddress(host_and_port);
  if (!parsed.ok() || !IsLoopback(*parsed)) {
    return BeyondThisMachine(host_and_port);
  }
  return *parsed;
}

TcpAddress OwnAddressOf(int fd) { return AddressBy(fd, getsockname); }

TcpAddress PeerAddressOf(int fd) { return AddressBy(fd, getpeername); }

}  // namespace gemel
