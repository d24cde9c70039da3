// SPDX-License-Identifier: Apache-2.0
#include "transport/control/grpc_status.h"

#include <string>

#include "common/errors.h"

namespace gemel {
namespace {

template <absl::StatusCode code, grpc::StatusCode grpc_code>
constexpr bool Same() {
  return static_cast<int>(code) == static_cast<int>(grpc_code);
}

static_assert(Same<absl::StatusCode::kOk, grpc::StatusCode::OK>());
static_assert(Same<absl::StatusCode::kCancelled, grpc::StatusCode::CANCELLED>());
static_assert(Same<absl::StatusCode::kUnknown, grpc::StatusCode::UNKNOWN>());
static_assert(Same<absl::StatusCode::kInvalidArgument, grpc::StatusCode::INVALID_ARGUMENT>());
static_assert(Same<absl::StatusCode::kDeadlineExceeded, grpc::StatusCode::DEADLINE_EXCEEDED>());
static_assert(Same<absl::StatusCode::kNotFound, grpc::StatusCode::NOT_FOUND>());
static_assert(Same<absl::StatusCode::kAlreadyExists, grpc::StatusCode::ALREADY_EXISTS>());
static_assert(Same<absl::StatusCode::kPermissionDenied, grpc::StatusCode::PERMISSION_DENIED>());
static_assert(Same<absl::StatusCode::kResourceExhausted, grpc::StatusCode::RESOURCE_EXHAUSTED>());
static_assert(Same<absl::StatusCode::kFailedPrecondition, grpc::StatusCode::FAILED_PRECONDITION>());
static_assert(Same<absl::StatusCode::kAborted, grpc::StatusCode::ABORTED>());
static_assert(Same<absl::StatusCode::kOutOfRange, grpc::StatusCode::OUT_OF_RANGE>());
static_assert(Same<absl::StatusCode::kUnimplemented, grpc::StatusCode::UNIMPLEMENTED>());
static_assert(Same<absl::StatusCode::kInternal, grpc::StatusCode::INTERNAL>());
static_assert(Same<absl::StatusCode::kUnavailable, grpc::StatusCode::UNAVAILABLE>());
static_assert(Same<absl::StatusCode::kDataLoss, grpc::StatusCode::DATA_LOSS>());
static_assert(Same<absl::StatusCode::kUnauthenticated, grpc::StatusCode::UNAUTHENTICATED>());

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) {
    return grpc::Status::OK;
  }
  return {static_cast<grpc::StatusCode>(status.code()),
          std::string(MessageOf(status).substr(0, kGrpcMessageBytesMax))};
}

absl::Status FromGrpc(const grpc::Status& status) {
  const int code = status.error_code();
  const bool known = code >= 0 && code <= static_cast<int>(grpc::StatusCode::UNAUTHENTICATED);
  return MakeStatus(known ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown,
                    status.error_message());
}

}  // namespace gemel
