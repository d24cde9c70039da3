// SPDX-License-Identifier: Apache-2.0
//
// SimRpcChannel and SimRpcServer: RpcChannel and RpcService over SimWorld's links.
//
// A request or a reply takes the link's delay. LinkFaults::lose_request_ppm loses a request
// unexecuted, lose_reply_ppm loses the reply of an executed one; either way the caller gets
// Unavailable or, as often, nothing until its deadline, so it cannot tell which. A blackhole holds
// requests and replies back: one whose caller gave up may still be executed after the link heals.
// Nothing is executed twice, as with gRPC, except by duplicate_call_ppm: as by a proxy between.
//
// A killed or broken caller is told to the handler (RpcCall::OnCallerGone), a killed server to its
// callers (Unavailable), unless a blackhole lies between: then only deadlines end the calls, on
// both sides.
//
// Thread safety: one thread.
// Ownership: both share their process; the service must outlive the server's handlers.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "common/task.h"
#include "transport/control/rpc.h"
#include "transport/control/rpc_limits.h"
#include "transport/sim/sim_address.h"
#include "transport/sim/sim_node_process.h"

namespace gemel {

class SimCall;

class SimRpcChannel final : public RpcChannel {
 public:
  // InvalidArgument when `address` is not "sim://node/port" or "unix://path".
  static absl::StatusOr<std::unique_ptr<SimRpcChannel>> Create(
      std::shared_ptr<SimNodeProcess> process, const std::string& address);

  // REQUIRES: a deadline. Unavailable: nobody listens, the server died, or the connection broke;
  // DeadlineExceeded; both leave the outcome unknown. ResourceExhausted: too large, or overload.
  Task<absl::StatusOr<std::string>> Call(std::string method, std::string request,
                                         TimePoint deadline) override;

  std::string address() const override { return target_.ToString(); }

 private:
  // Static: the channel may go while it runs, or before.
  static Task<absl::StatusOr<std::string>> RunCall(std::shared_ptr<SimCall> call,
                                                   std::string method, std::string request);

  SimRpcChannel(std::shared_ptr<SimNodeProcess> process, SimAddress target)
      : process_(std::move(process)), target_(std::move(target)) {}

  const std::shared_ptr<SimNodeProcess> process_;
  const SimAddress target_;
};

class SimRpcServer {
 public:
  // AlreadyExists when the address is taken; port 0 chooses one.
  static absl::StatusOr<std::unique_ptr<SimRpcServer>> Start(
      std::shared_ptr<SimNodeProcess> process, const std::string& address, RpcService* service,
      size_t calls_in_flight_max = kRpcCallsInFlightMax);

  // REQUIRES: Stop() has returned, or the process is dead or its loop shut down.
  ~SimRpcServer();
  SimRpcServer(const SimRpcServer&) = delete;
  SimRpcServer& operator=(const SimRpcServer&) = delete;

  // Accepts no more, cancels the calls in flight and returns when their handlers have ended.
  Task<void> Stop();

  std::string address() const { return address_.ToString(); }

  size_t calls_in_flight() const;

 private:
  class State;

  SimRpcServer(SimAddress address, std::shared_ptr<State> state);

  const SimAddress address_;
  const std::shared_ptr<State> state_;  // shared with calls on their way here
  friend class SimRpcChannel;
};

}  // namespace gemel
