// SPDX-License-Identifier: Apache-2.0
//
// Sockets of servers, and the cluster as placement sees it.
#include <fmt/format.h>

#include "client/cli/doctor.h"

namespace gemel::cli {
namespace {

constexpr uint32_t kOthersMask = 0077;

// Who the socket lets in: the server also asks the kernel who is at the other end.
Finding CheckSocket(const SocketFacts& facts, const ClusterFacts& cluster) {
  Finding finding{fmt::format("socket {}", facts.address), Level::kFail, "", ""};
  if (!facts.exists) {
    finding.found = facts.denied ? "its folder cannot be looked into by this user" : "is not there";
    finding.mend = facts.denied ? fmt::format("run as the user who started it (you are user {})",
                                              cluster.own_user)
                                : "gemel up, or correct GEMEL_ADDRESS";
    return finding;
  }
  if (!facts.is_socket) {
    finding.found = "is a file or folder, no socket";
    finding.mend = "correct GEMEL_ADDRESS; `gemel up` prints it";
    return finding;
  }
  if (facts.denied) {
    finding.found = fmt::format("belongs to user {} ({}), mode {:o}; you are user {}", facts.owner,
                                facts.owner_name, facts.mode, cluster.own_user);
    finding.mend = fmt::format("run as {}, or start a server of your own with `gemel up --dir DIR`",
                               facts.owner_name);
    return finding;
  }
  if (!facts.answers) {
    finding.found = fmt::format("is stale: no process listens there ({})", facts.error);
    finding.mend = "gemel up starts the server again and replaces the socket";
    return finding;
  }
  finding.level = Level::kOk;
  finding.found =
      fmt::format("answers; for user {} ({}) and root only", facts.owner, facts.owner_name);
  if ((facts.mode & kOthersMask) != 0) {
    finding.level = Level::kWarn;
    finding.found = fmt::format(
        "answers; mode {:o} lets others connect, whom the server then refuses", facts.mode);
    finding.mend = fmt::format("chmod 600 {}", facts.address.substr(facts.address.find('/')));
  }
  return finding;
}

Finding CheckPlacement(const ClusterFacts& facts) {
  if (facts.placement_answers) {
    return {"placement", Level::kOk, fmt::format("answers at {}", facts.placement), ""};
  }
  return {"placement", Level::kFail, facts.placement_error,
          fmt::format("gemel up --placement --dir {}", facts.dir)};
}

Finding CheckServers(const ClusterFacts& facts) {
  std::string bad;
  std::string first;
  for (const auto& [name, state] : facts.servers) {
    if (state != "ALIVE") {
      bad += fmt::format("{}{} {}", bad.empty() ? "" : ", ", name, state);
      first = first.empty() ? name : first;
    }
  }
  if (bad.empty()) {
    return {"servers", Level::kOk, fmt::format("{} alive", facts.servers.size()), ""};
  }
  return {"servers", Level::kFail, fmt::format("of {}: {}", facts.servers.size(), bad),
          fmt::format("gemel up --server {} --dir {}", first, facts.dir)};
}

}  // namespace

Findings CheckCluster(const ClusterFacts& facts) {
  Findings findings;
  if (!facts.problem.empty()) {
    findings.push_back({"cluster", Level::kFail, facts.problem, "another --dir"});
  } else if (!facts.known && facts.sockets.empty()) {
    findings.push_back({"cluster", Level::kOk,
                        fmt::format("none below {}; `gemel up` starts one", facts.dir), ""});
  } else if (facts.stopped && facts.sockets.empty()) {
    findings.push_back({"cluster", Level::kOk,
                        fmt::format("the one below {} is stopped; `gemel up` starts it", facts.dir),
                        ""});
  }
  for (const SocketFacts& socket : facts.sockets) {
    findings.push_back(CheckSocket(socket, facts));
  }
  if (facts.placement.empty() || facts.stopped) {
    return findings;
  }
  findings.push_back(CheckPlacement(facts));
  if (facts.placement_answers) {
    findings.push_back(CheckServers(facts));
    for (const std::string& warning : facts.warnings) {
      findings.push_back({"cluster warning", Level::kWarn, warning, "gemel status --watch"});
    }
  }
  return findings;
}

}  // namespace gemel::cli
