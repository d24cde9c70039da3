// SPDX-License-Identifier: Apache-2.0
//
// Bytes of a request or reply as gRPC carries them, and the name of a method on the wire.
// Thread safety: pure functions.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <optional>
#include <string>
#include <string_view>

namespace gemel {

grpc::ByteBuffer ToByteBuffer(std::string_view bytes);

// Nothing when gRPC cannot unpack it (a broken compression).
std::optional<std::string> FromByteBuffer(const grpc::ByteBuffer& buffer);

inline constexpr std::string_view kPlacementService = "gemel.v1.Placement";

// "/gemel.v1.Placement/Open"
std::string MethodPath(std::string_view service, std::string_view method);

// "Open" of kPlacementService; nothing for a path of another service.
std::optional<std::string> MethodOfPath(std::string_view path);

}  // namespace gemel
