// SPDX-License-Identifier: Apache-2.0
#include "transport/control/grpc_address.h"

#include "common/check.h"
#include "common/errors.h"
#include "transport/tcp/tcp_address.h"

namespace gemel {
namespace {

constexpr std::string_view kUnix = "unix:";
constexpr std::string_view kEmptyAuthority = "//";
constexpr std::string_view kTcp = "tcp://";
// sun_path of Linux, with its terminating zero.
constexpr size_t kUnixPathBytesMax = 107;

absl::StatusOr<GrpcAddress> ParseUnix(std::string_view path) {
  if (path.starts_with(kEmptyAuthority)) {
    path.remove_prefix(kEmptyAuthority.size());
  }
  if (path.empty() || path.size() > kUnixPathBytesMax) {
    return error::InvalidArgument("the path of control address 'unix:{}' must have 1 to {} bytes",
                                  path, kUnixPathBytesMax);
  }
  GrpcAddress address;
  address.unix_path = path;
  return address;
}

}  // namespace

std::string GrpcAddress::ToString() const {
  return is_unix() ? fmt::format("{}{}", kUnix, unix_path) : fmt::format("{}:{}", host, port);
}

std::string GrpcAddress::Target() const {
  if (is_unix()) {
    return ToString();
  }
  return fmt::format("{}:{}", host.front() == '[' ? "ipv6" : "ipv4", ToString());
}

absl::StatusOr<GrpcAddress> ParseGrpcAddress(std::string_view text) {
  if (text.starts_with(kUnix)) {
    return ParseUnix(text.substr(kUnix.size()));
  }
  absl::StatusOr<TcpAddress> tcp = ParseLoopbackAddress(text);
  if (!tcp.ok()) {
    return Annotate(tcp.status(), fmt::format("control address '{}'", text));
  }
  const std::string numeric = tcp->ToString();
  GEMEL_CHECK(numeric.starts_with(kTcp)) << numeric;
  GrpcAddress address;
  address.port = tcp->port();
  address.host = numeric.substr(kTcp.size(), numeric.rfind(':') - kTcp.size());
  return address;
}

}  // namespace gemel
