// SPDX-License-Identifier: Apache-2.0
//
// GrpcChannel: RpcChannel over gRPC. One attempt a call: no retries, no wait-for-ready, no
// keepalive; reconnects back off from 100 ms to 1 s.
//
// Thread safety: one loop. gRPC's threads touch only what a call shares with them; what they bring
// is posted to the loop. Ownership: borrows the loop, which must outlive the channel. Destroying
// the channel cancels its calls (Cancelled); their callbacks then find no loop to post to.
// Invariants:
//   (1) every Call() ends at its deadline, whatever gRPC does.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "common/loop.h"
#include "transport/control/grpc_address.h"
#include "transport/control/rpc.h"
#include "transport/control/rpc_limits.h"

namespace gemel {

class GrpcChannel final : public RpcChannel {
 public:
  // Connects with the first call. Errors: ParseGrpcAddress()'s.
  static absl::StatusOr<std::unique_ptr<GrpcChannel>> Create(Loop* loop, std::string_view address);
  ~GrpcChannel() override;
  GrpcChannel(const GrpcChannel&) = delete;
  GrpcChannel& operator=(const GrpcChannel&) = delete;

  // REQUIRES: a deadline. Unavailable, DeadlineExceeded: the outcome is unknown. ResourceExhausted:
  // a message over kRpcMessageBytesMax, or overload. Cancelled: the channel was destroyed. Else the
  // handler's own status.
  Task<absl::StatusOr<std::string>> Call(std::string method, std::string request,
                                         TimePoint deadline) override;

  std::string address() const override { return address_.ToString(); }

 private:
  struct Core;
  struct Wire;
  struct Pending;

  GrpcChannel(Loop* loop, GrpcAddress address, std::shared_ptr<Core> core);
  void Begin(const std::shared_ptr<Pending>& pending, const std::string& method,
             const std::string& request, TimePoint deadline);

  Loop* const loop_;
  const GrpcAddress address_;
  const std::shared_ptr<Core> core_;  // shared with callbacks under way in gRPC's threads
  uint64_t next_call_ = 1;
  // shared: the frames of Call() hold it too.
  const std::shared_ptr<std::map<uint64_t, std::shared_ptr<Pending>>> pending_;
};

}  // namespace gemel
