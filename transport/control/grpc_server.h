// SPDX-License-Identifier: Apache-2.0
//
// GrpcServer: one RpcService over gRPC, every method of gemel.v1.Placement as bytes.
//
// Thread safety: one loop. gRPC's threads read requests and write replies; handlers run on the
// loop. Ownership: borrows loop and service; both must outlive the server. Invariants:
//   (1) each call is answered once: by its handler, or Unavailable when the server stops;
//   (2) at most `calls_in_flight_max` calls are being received or handled; more get
//   ResourceExhausted; (3) after the destructor no thread of gRPC knows the loop.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

#include "common/loop.h"
#include "common/task.h"
#include "transport/control/grpc_address.h"
#include "transport/control/rpc.h"
#include "transport/control/rpc_limits.h"

namespace grpc {
class Server;
}

namespace gemel {

class GrpcServer {
 public:
  // AlreadyExists, naming the address and the way out, when it is taken; else ParseGrpcAddress()'s
  // errors. Port 0 lets the system choose; see address(). The file of a unix address is replaced if
  // nobody answers.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      Loop* loop, std::string_view address, RpcService* service,
      size_t calls_in_flight_max = kRpcCallsInFlightMax);

  // REQUIRES: Stop() has returned and no handler runs any more, or the loop is shut down.
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  // Accepts no more, cancels the calls in flight, gives their handlers `grace`, answers what
  // is left with Unavailable and closes the port. OK, or DeadlineExceeded with the number of
  // handlers still running.
  Task<absl::Status> Stop(Duration grace = kRpcStopGrace);

  // "127.0.0.1:40123"
  std::string address() const { return address_.ToString(); }

 private:
  class State;
  class Incoming;
  class Service;

  GrpcServer(GrpcAddress address, std::shared_ptr<State> state, std::unique_ptr<Service> service);
  void ShutDown();

  const GrpcAddress address_;
  const std::shared_ptr<State> state_;  // shared with calls in gRPC's threads and on the loop
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace gemel
