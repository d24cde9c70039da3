// SPDX-License-Identifier: Apache-2.0
//
// Control-plane calls as logic sees them: a method name and serialized protobuf messages of
// proto/gemel/v1/placement.proto. Production: gRPC (transport/control/grpc_*); simulation:
// transport/sim/sim_rpc.h.
//
// Every call has a deadline. DeadlineExceeded and Unavailable leave the outcome UNKNOWN: read the
// state again, never reissue blindly. Only a failure marked NotExecuted() may be asked of another
// peer.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"

#include "common/errors.h"
#include "common/task.h"
#include "common/time.h"

namespace gemel {

inline constexpr absl::string_view kNotExecuted = "gemel.not-executed";

// Of a failure: the call did not reach a handler, and never will.
inline absl::Status NotExecuted(absl::Status status) {
  status.SetPayload(kNotExecuted, absl::Cord());
  return status;
}

// What a placement says that does not lead: it did not execute the call. Known by its first words,
// because a status carries no more over the wire, and handlers answer Aborted too.
inline constexpr std::string_view kStandsBy = "does not lead: ";

inline absl::Status StandsBy(std::string_view why) {
  return error::Aborted("{}{}", kStandsBy, why);
}

inline bool WasNotExecuted(const absl::Status& status) {
  return status.GetPayload(kNotExecuted).has_value() ||
         (status.code() == absl::StatusCode::kAborted && MessageOf(status).starts_with(kStandsBy));
}

// What a peer says of a call, as its caller takes it. Cancelled is the caller's own word: a peer
// that stops, or whose gRPC cuts a call off, leaves the outcome unknown.
inline absl::Status FromPeer(absl::Status status) {
  if (status.code() != absl::StatusCode::kCancelled) {
    return status;
  }
  return error::Unavailable("the other side ended the call ({}); the outcome is unknown",
                            MessageOf(status));
}

class RpcChannel {
 public:
  virtual ~RpcChannel() = default;
  // Cancelled: the channel was destroyed.
  virtual Task<absl::StatusOr<std::string>> Call(std::string method, std::string request,
                                                 TimePoint deadline) = 0;
  // "127.0.0.1:7601", for messages.
  virtual std::string address() const = 0;
};

// One call as its handler sees it.
class RpcCall {
 public:
  virtual ~RpcCall() = default;
  // True when the caller went away (its process died, it cancelled, its deadline passed).
  virtual bool cancelled() const = 0;
  // Runs `gone` once, on the loop, when the caller's connection breaks before the reply: the fast
  // sign of a dead server (its long poll ends). Not run after the reply.
  virtual void OnCallerGone(std::function<void()> gone) = 0;
};

class RpcService {
 public:
  virtual ~RpcService() = default;
  virtual Task<absl::StatusOr<std::string>> Handle(std::shared_ptr<RpcCall> call,
                                                   std::string method, std::string request) = 0;
};

// Calls `method` with protobuf `request`; parses the reply.
template <typename Response, typename RequestMessage>
Task<absl::StatusOr<Response>> CallRpc(RpcChannel* channel, std::string method,
                                       RequestMessage request, TimePoint deadline) {
  absl::StatusOr<std::string> raw =
      co_await channel->Call(method, request.SerializeAsString(), deadline);
  if (!raw.ok()) {
    co_return raw.status();
  }
  Response response;
  if (!response.ParseFromString(*raw)) {
    co_return error::Internal("{} at {} answered {} bytes that do not parse: mixed versions?",
                              method, channel->address(), raw->size());
  }
  co_return response;
}

}  // namespace gemel
