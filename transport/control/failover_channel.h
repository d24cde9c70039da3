// SPDX-License-Identifier: Apache-2.0
//
// FailoverChannel: one RpcChannel over several placements, of which one leads. A call goes to the
// one that answered last. What was not executed (a standby refuses it, or nobody answers
// there) is asked of the next at once; after Unavailable or DeadlineExceeded the outcome is
// unknown, so that call ends with it and the next call goes elsewhere. When another one has
// answered as the leader, calls that still wait at the former end with Unavailable.
//
// Thread safety: one loop.
// Ownership: owns the channels. A Call() may outlive it and then ends with Cancelled.
// Errors: the channels' own; a standby's refusal never: where nobody leads it is Unavailable with
// what each said.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/loop.h"
#include "transport/control/rpc.h"

namespace gemel {

class FailoverChannel final : public RpcChannel {
 public:
  // REQUIRES: at least one channel.
  FailoverChannel(Loop* loop, std::vector<std::unique_ptr<RpcChannel>> channels);
  ~FailoverChannel() override;
  FailoverChannel(const FailoverChannel&) = delete;
  FailoverChannel& operator=(const FailoverChannel&) = delete;

  Task<absl::StatusOr<std::string>> Call(std::string method, std::string request,
                                         TimePoint deadline) override;

  // All of them, by commas.
  std::string address() const override;

 private:
  struct Core;
  struct Flight;
  static Task<absl::StatusOr<std::string>> RunCall(std::shared_ptr<Core> core, std::string method,
                                                   std::string request, TimePoint deadline);
  static Task<absl::StatusOr<std::string>> AskOne(std::shared_ptr<Core> core, size_t at,
                                                  std::string method, std::string request,
                                                  TimePoint deadline);
  static Task<void> Fly(std::shared_ptr<Core> core, std::shared_ptr<Flight> flight,
                        std::string method, std::string request, TimePoint deadline);

  const std::shared_ptr<Core> core_;  // shared with calls under way
};

// The addresses of a list by commas, in order, without spaces. InvalidArgument for an empty one.
absl::StatusOr<std::vector<std::string>> SplitAddresses(const std::string& list);

}  // namespace gemel
