// SPDX-License-Identifier: Apache-2.0
#include "transport/control/failover_channel.h"

#include <list>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/sync.h"

namespace gemel {

// One call at one placement.
struct FailoverChannel::Flight {
  Flight(Loop* loop, size_t at) : result(loop), at(at) {}

  OneShot<absl::StatusOr<std::string>> result;
  const size_t at;
};

struct FailoverChannel::Core {
  Core(Loop* loop, std::vector<std::unique_ptr<RpcChannel>> channels)
      : loop(loop), channels(std::move(channels)) {}

  // `at` did not help: the next call goes elsewhere, unless one already did.
  void MoveOnFrom(size_t at) {
    if (current == at) {
      current = (at + 1) % channels.size();
    }
  }

  // `at` answered as the leader does.
  void Leads(size_t at) {
    GEMEL_CHECK_LT(at, channels.size());
    current = at;
    if (leader == at) {
      return;
    }
    leader = at;
    for (const std::shared_ptr<Flight>& flight : flights) {
      if (flight->at != at) {
        flight->result.Set(error::Unavailable(
            "placement at {} leads now and {} did not answer: the outcome is unknown",
            channels[at]->address(), channels[flight->at]->address()));
      }
    }
  }

  Loop* const loop;
  std::vector<std::unique_ptr<RpcChannel>> channels;  // emptied when the channel goes
  size_t current = 0;
  size_t leader = 0;
  std::list<std::shared_ptr<Flight>> flights;
};

FailoverChannel::FailoverChannel(Loop* loop, std::vector<std::unique_ptr<RpcChannel>> channels)
    : core_(std::make_shared<Core>(loop, std::move(channels))) {
  GEMEL_CHECK(loop != nullptr && !core_->channels.empty());
}

FailoverChannel::~FailoverChannel() {
  for (const std::shared_ptr<Flight>& flight : core_->flights) {
    flight->result.Set(error::Cancelled("the channel to {} was closed", address()));
  }
  core_->channels.clear();
}

std::string FailoverChannel::address() const {
  std::string all;
  for (const std::unique_ptr<RpcChannel>& channel : core_->channels) {
    all += (all.empty() ? "" : ",") + channel->address();
  }
  return all;
}

Task<void> FailoverChannel::Fly(std::shared_ptr<Core> core, std::shared_ptr<Flight> flight,
                                std::string method, std::string request, TimePoint deadline) {
  if (core->channels.empty()) {
    co_return;  // closed before it began; the flight has its result
  }
  RpcChannel* channel = core->channels[flight->at].get();
  GEMEL_CHECK(channel != nullptr && deadline != kTimeNever) << method;
  absl::StatusOr<std::string> reply =
      co_await channel->Call(std::move(method), std::move(request), deadline);
  flight->result.Set(std::move(reply));
}

Task<absl::StatusOr<std::string>> FailoverChannel::AskOne(std::shared_ptr<Core> core, size_t at,
                                                          std::string method, std::string request,
                                                          TimePoint deadline) {
  auto flight = std::make_shared<Flight>(core->loop, at);
  const auto place = core->flights.insert(core->flights.end(), flight);
  core->loop->Spawn(Fly(core, flight, std::move(method), std::move(request), deadline));
  const bool answered = co_await flight->result.WaitUntil(kTimeNever);
  GEMEL_CHECK(!core->flights.empty());
  core->flights.erase(place);
  GEMEL_CHECK(answered);
  co_return std::move(flight->result.value());
}

Task<absl::StatusOr<std::string>> FailoverChannel::RunCall(std::shared_ptr<Core> core,
                                                           std::string method, std::string request,
                                                           TimePoint deadline) {
  std::string refusals;
  for (size_t tries = 0; tries < core->channels.size(); ++tries) {
    const size_t at = core->current;
    absl::StatusOr<std::string> reply = co_await AskOne(core, at, method, request, deadline);
    if (core->channels.empty()) {
      co_return error::Cancelled("the channel was closed");
    }
    const absl::StatusCode code = reply.status().code();
    if (!WasNotExecuted(reply.status())) {
      const bool unknown = code == absl::StatusCode::kUnavailable ||
                           code == absl::StatusCode::kDeadlineExceeded ||
                           code == absl::StatusCode::kCancelled;
      if (unknown) {
        core->MoveOnFrom(at);
      } else {
        core->Leads(at);
      }
      co_return reply;
    }
    core->MoveOnFrom(at);
    refusals += (refusals.empty() ? "" : "; ") + std::string(MessageOf(reply.status()));
    if (core->channels.size() == 1 && code != absl::StatusCode::kAborted) {
      co_return MakeStatus(code, refusals);
    }
  }
  co_return error::Unavailable("no placement leads now: {}", refusals);
}

Task<absl::StatusOr<std::string>> FailoverChannel::Call(std::string method, std::string request,
                                                        TimePoint deadline) {
  GEMEL_CHECK(deadline != kTimeNever) << method << " without a deadline";
  return RunCall(core_, std::move(method), std::move(request), deadline);
}

absl::StatusOr<std::vector<std::string>> SplitAddresses(const std::string& list) {
  std::vector<std::string> addresses;
  size_t from = 0;
  while (from <= list.size()) {
    const size_t end = std::min(list.find(',', from), list.size());
    addresses.push_back(list.substr(from, end - from));
    if (addresses.back().empty() || addresses.back().find(' ') != std::string::npos) {
      return error::InvalidArgument(
          "'{}' is no list of addresses: write them as host:port,host:port without spaces", list);
    }
    from = end + 1;
  }
  return addresses;
}

}  // namespace gemel
