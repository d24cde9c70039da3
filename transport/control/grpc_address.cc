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
constexpr size_t kPortDigitsMax = 5;

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

absl::Status CheckFarAddress(std::string_view text) {
  const size_t colon = text.rfind(':');
  const std::string_view port =
      colon == std::string_view::npos ? std::string_view() : text.substr(colon + 1);
  const bool digits = !port.empty() && port.size() <= kPortDigitsMax &&
                      port.find_first_not_of("0123456789") == std::string_view::npos;
  if (!digits || colon == 0 || text.find_first_of("/ ,") != std::string_view::npos) {
    return error::InvalidArgument("address '{}' must be host:port", text);
  }
  return absl::OkStatus();
}

}  // namespace gemel
