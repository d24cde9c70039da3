// SPDX-License-Identifier: Apache-2.0
#include "transport/control/grpc_message.h"

#include <fmt/format.h>
#include <grpcpp/support/slice.h>

#include <vector>

#include "common/check.h"

namespace gemel {
namespace {

constexpr std::string_view kServicePath = "/gemel.v1.Placement/";
static_assert(kServicePath.substr(1, kServicePath.size() - 2) == kPlacementService);

}  // namespace

grpc::ByteBuffer ToByteBuffer(std::string_view bytes) {
  const grpc::Slice slice(bytes.data(), bytes.size());
  return {&slice, 1};
}

std::optional<std::string> FromByteBuffer(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  if (!buffer.Valid() || !buffer.Dump(&slices).ok()) {
    return std::nullopt;
  }
  std::string bytes;
  bytes.reserve(buffer.Length());
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

std::string MethodPath(std::string_view service, std::string_view method) {
  GEMEL_CHECK(!service.empty() && service.find('/') == std::string_view::npos) << service;
  GEMEL_CHECK(!method.empty() && method.find('/') == std::string_view::npos) << method;
  return fmt::format("/{}/{}", service, method);
}

std::optional<std::string> MethodOfPath(std::string_view path) {
  if (!path.starts_with(kServicePath) || path.size() == kServicePath.size()) {
    return std::nullopt;
  }
  return std::string(path.substr(kServicePath.size()));
}

}  // namespace gemel
