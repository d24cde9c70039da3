// SPDX-License-Identifier: Apache-2.0
//
// GrpcChannel: RpcChannel over gRPC. One attempt a call: no retries, no wait-for-ready, no
// keepalive; reconnects back off from 100 ms to 1 s.
//
// Thread safety: one loop. gRPC's threads touch only what a call shares with them; what they bring
// is posted to the loop.
// Ownership: borrows the loop, which must outlive the channel. Destroying the channel cancels its
// calls (Cancelled) and waits until gRPC has let go of them, which is a matter of microseconds.
// Invariants:
//   (1) every Call() ends at its deadline, whatever gRPC does;
//   (2) after the destructor no thread of gRPC knows the loop or a call.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

#include "common/loop.h"
#include "transport/control/failover_channel.h"
#include "transport/control/rpc.h"
#include "transport/control/rpc_limits.h"

namespace gemel {

// PEM texts: the authorities that the peer's certificate is checked against, and who we are (both
// empty: nobody).
struct GrpcTls {
  std::string authorities;
  std::string certificate;
  std::string key;
};

// Whom a channel calls, when that is not gemel-placement.
struct GrpcPeer {
  std::string address;         // loopback or unix; with `tls` any "host:port"
  std::string service;         // "etcdserverpb.KV"
  std::optional<GrpcTls> tls;  // absent: neither encrypted nor authenticated
  std::vector<std::pair<std::string, std::string>> metadata;  // sent with every call
};

// True for a failure of which gRPC says that no connection came about, so that the call was never
// sent. Known by gRPC's words: any other failure may have reached the peer.
bool WasNeverSent(const absl::Status& status);

class GrpcChannel final : public RpcChannel {
 public:
  // To gemel-placement. Connects with the first call. Errors: ParseGrpcAddress()'s.
  static absl::StatusOr<std::unique_ptr<GrpcChannel>> Create(Loop* loop, std::string_view address);
  // To any service; its failures keep gRPC's words. Errors: as above; InvalidArgument for an
  // address with TLS that names no port.
  static absl::StatusOr<std::unique_ptr<GrpcChannel>> Create(Loop* loop, GrpcPeer peer);
  ~GrpcChannel() override;
  GrpcChannel(const GrpcChannel&) = delete;
  GrpcChannel& operator=(const GrpcChannel&) = delete;

  // REQUIRES: a deadline. Unavailable, DeadlineExceeded: the outcome is unknown. ResourceExhausted:
  // a message over kRpcMessageBytesMax, or overload. Cancelled: the channel was destroyed. Else the
  // handler's own status.
  Task<absl::StatusOr<std::string>> Call(std::string method, std::string request,
                                         TimePoint deadline) override;

  std::string address() const override;

 private:
  struct Core;
  struct CountedCore;
  struct Wire;
  struct Pending;
  struct PendingGuard;

  explicit GrpcChannel(std::shared_ptr<Core> core);
  static void Begin(const std::shared_ptr<Core>& core, const std::shared_ptr<Pending>& pending,
                    const std::string& method, const std::string& request, Duration left);
  // Static: the channel may go while it runs, or before.
  static Task<absl::StatusOr<std::string>> RunCall(std::shared_ptr<Core> core, std::string method,
                                                   std::string request, TimePoint deadline);

  const std::shared_ptr<Core> core_;  // shared with calls on the loop and in gRPC's threads
};

// A channel to the placement that leads among `addresses` (by commas). Errors: SplitAddresses()'s
// and ParseGrpcAddress()'s.
absl::StatusOr<std::unique_ptr<FailoverChannel>> ConnectToPlacement(Loop* loop,
                                                                    const std::string& addresses);

}  // namespace gemel
