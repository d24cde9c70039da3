// SPDX-License-Identifier: Apache-2.0
//
// Ports, congestion control, RDMA devices.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "client/cli/doctor.h"

namespace gemel::cli {
namespace {

bool IsGemel(const PortHolder& holder) {
  return holder.command.find("gemel-server") != std::string::npos ||
         holder.command.find("gemel-placement") != std::string::npos;
}

Finding CheckPort(const PortFacts& facts) {
  Finding finding{fmt::format("port {}", facts.port), Level::kOk,
                  fmt::format("free ({})", facts.purpose), ""};
  if (!facts.holder.has_value()) {
    return finding;
  }
  finding.found = fmt::format("{} listens there ({})", Describe(*facts.holder), facts.purpose);
  if (IsGemel(*facts.holder)) {
    return finding;
  }
  finding.level = Level::kWarn;
  finding.mend = facts.holder->pid == 0
                     ? fmt::format(
                           "`gemel up` takes any free port unless --listen says this one; "
                           "whose it is: sudo ss -ltnp 'sport = :{}'",
                           facts.port)
                     : fmt::format(
                           "`gemel up` takes any free port unless --listen says this one; to "
                           "free it: kill {}",
                           facts.holder->pid);
  return finding;
}

Finding CheckCongestion(const NetworkFacts& facts) {
  const std::string there =
      fmt::format("default {}, available: {}", facts.congestion, facts.congestion_available);
  if (!facts.cubic_settable) {
    return {"congestion control", facts.congestion == "bbr" ? Level::kFail : Level::kWarn,
            fmt::format("{}; cubic cannot be chosen for a socket, and bbr halves loopback", there),
            "modprobe tcp_cubic; sysctl -w net.ipv4.tcp_allowed_congestion_control='reno cubic'"};
  }
  if (facts.congestion == "bbr") {
    return {"congestion control", Level::kOk,
            fmt::format("{}; bbr would halve loopback, but servers set cubic on their own sockets "
                        "(gemel-server --congestion)",
                        there),
            ""};
  }
  return {"congestion control", Level::kOk,
          fmt::format("{}; servers set cubic on their own sockets", there), ""};
}

Finding CheckRdma(const NetworkFacts& facts) {
  if (facts.rdma.empty()) {
    return {"RDMA", Level::kOk, fmt::format("none, TCP serves: {}", facts.rdma_error), ""};
  }
  return {"RDMA", Level::kOk,
          fmt::format("{}; this release moves bytes over TCP", fmt::join(facts.rdma, "; ")), ""};
}

}  // namespace

Findings CheckNetwork(const NetworkFacts& facts) {
  Findings findings;
  for (const PortFacts& port : facts.ports) {
    findings.push_back(CheckPort(port));
  }
  findings.push_back(CheckCongestion(facts));
  findings.push_back(CheckRdma(facts));
  return findings;
}

}  // namespace gemel::cli
