// SPDX-License-Identifier: Apache-2.0
//
// GrpcAddress: "127.0.0.1:7601", "[::1]:7601", "localhost:7601" or "unix:/path" of the control
// plane.
//
// Thread safety: values.
// Errors: InvalidArgument for text that is no address; PermissionDenied for one beyond this
// machine, because calls are neither encrypted nor authenticated until TLS exists.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace gemel {

struct GrpcAddress {
  std::string host;  // "127.0.0.1" or "[::1]"; empty for unix
  uint16_t port = 0;
  std::string unix_path;

  bool is_unix() const { return host.empty(); }

  // For people and for AddListeningPort(): "127.0.0.1:7601".
  std::string ToString() const;
  // For a channel: names the family, so that no resolver is asked: "ipv4:127.0.0.1:7601".
  std::string Target() const;
};

absl::StatusOr<GrpcAddress> ParseGrpcAddress(std::string_view text);

// "host:port" of another machine, for a channel with TLS. InvalidArgument otherwise; whether the
// host exists is found out by the first call.
absl::Status CheckFarAddress(std::string_view text);

}  // namespace gemel
