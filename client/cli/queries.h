// SPDX-License-Identifier: Apache-2.0
//
// What people ask placement: each query gives one JSON value; the table is made from it.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "absl/status/statusor.h"

#include "client/cli/flags.h"
#include "common/epoll_loop.h"
#include "gemel/v1/placement.pb.h"
#include "transport/control/grpc_channel.h"

namespace gemel::cli {

// A connection to placement, used call by call from the CLI's only thread.
class PlacementClient {
 public:
  // InvalidArgument or PermissionDenied for an address that is not loopback. Does not connect yet.
  static absl::StatusOr<std::unique_ptr<PlacementClient>> Make(const std::string& address);
  ~PlacementClient();

  // Unavailable, naming the address and the way out, when placement does not answer in kCallWithin.
  template <typename Reply, typename Request>
  absl::StatusOr<Reply> Call(const std::string& method, const Request& request,
                             Duration within = kCallWithin);

  // `tick` is called a few times a second while a call waits; null: nothing.
  void WhileWaiting(std::function<void()> tick) { tick_ = std::move(tick); }

 private:
  static constexpr Duration kCallWithin = 5s;

  PlacementClient(std::unique_ptr<EpollLoop> loop, std::unique_ptr<RpcChannel> channel);
  absl::StatusOr<std::string> CallRaw(const std::string& method, std::string request,
                                      Duration within);

  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<RpcChannel> channel_;
  std::function<void()> tick_;
};

// "gpt" or "gpt@7".
struct JobAndName {
  std::string job;
  std::string name;  // empty: not given
};

JobAndName SplitJobAndName(const std::string& text);

absl::StatusOr<nlohmann::ordered_json> QueryStatus(PlacementClient* placement);
absl::StatusOr<nlohmann::ordered_json> QueryJobs(PlacementClient* placement);
absl::StatusOr<nlohmann::ordered_json> QuerySnapshots(PlacementClient* placement,
                                                      const std::string& job);
// DataLoss, after printing would be wrong: the caller looks at "bad" in the value.
absl::StatusOr<nlohmann::ordered_json> QueryVerify(PlacementClient* placement,
                                                   const JobAndName& what);
absl::StatusOr<nlohmann::ordered_json> RemoveSnapshots(PlacementClient* placement,
                                                       const JobAndName& what);
absl::StatusOr<nlohmann::ordered_json> QueryExplain(PlacementClient* placement,
                                                    const JobAndName& what, const Flags& flags);

// What PersistSnapshot says; the call begins the work when it has not begun.
struct PersistStep {
  bool done = false;
  std::string name;
  uint32_t shards_done = 0;
  uint32_t shards = 0;
  uint64_t bytes_done = 0;
  uint64_t bytes = 0;
  std::string detail;  // what it waits for, or why it was given up
};

// Held by placement for at most a second while nothing moves.
absl::StatusOr<PersistStep> PersistOnce(PlacementClient* placement, const JobAndName& what);

}  // namespace gemel::cli
