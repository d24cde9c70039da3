// SPDX-License-Identifier: Apache-2.0
//
// Statuses of gRPC and Abseil: the one place that converts them.
//
// Codes are the same in both. A message longer than kGrpcMessageBytesMax is cut: gRPC carries it in
// a trailer of 8 KiB, percent-encoded. Thread safety: pure functions.
#pragma once

#include <grpcpp/support/status.h>

#include <cstddef>

#include "absl/status/status.h"

namespace gemel {

inline constexpr size_t kGrpcMessageBytesMax = 2048;

grpc::Status ToGrpc(const absl::Status& status);

// A code outside gRPC's set is Unknown.
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace gemel
