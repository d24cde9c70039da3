// SPDX-License-Identifier: Apache-2.0
#include "transport/addresses.h"

#include <algorithm>
#include <utility>

#include "common/sync.h"

namespace gemel {

std::vector<std::string> SplitAddresses(std::string_view addresses) {
  std::vector<std::string> parts;
  while (!addresses.empty()) {
    const std::string_view part = addresses.substr(0, addresses.find(','));
    if (!part.empty()) {
      parts.emplace_back(part);
    }
    addresses.remove_prefix(std::min(addresses.size(), part.size() + 1));
  }
  return parts;
}

size_t LanesTo(std::string_view address) {
  constexpr size_t kQueuePairs = 4;
  return address.starts_with("verbs://") ? kQueuePairs : 1;
}

Task<absl::Status> ProbeAny(Loop* loop, Net* net, std::string addresses, TimePoint deadline) {
  const std::vector<std::string> paths = SplitAddresses(addresses);
  if (paths.size() <= 1) {
    co_return co_await net->Probe(std::move(addresses), deadline);
  }
  std::vector<Task<absl::Status>> probes;
  probes.reserve(paths.size());
  for (const std::string& path : paths) {
    probes.push_back(net->Probe(path, deadline));
  }
  const std::vector<absl::Status> answers = co_await Gather(loop, std::move(probes));
  absl::Status refused = answers.front();
  for (const absl::Status& answer : answers) {
    if (answer.ok()) {
      co_return answer;
    }
    // One that says nothing may be there all the same.
    refused = refused.code() == absl::StatusCode::kUnavailable ? answer : refused;
  }
  co_return refused;
}

}  // namespace gemel
