// SPDX-License-Identifier: Apache-2.0
//
// gemel-keeper: holds the memory of one gemel-server of this host over that server's death. It ends
// at SIGTERM, and the memory with it.
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>

#include "common/daemon.h"
#include "common/epoll_loop.h"
#include "common/errors.h"
#include "common/real_process.h"
#include "common/status_macros.h"
#include "server/keeper/keeper_service.h"
#include "transport/local/real_host.h"
#include "transport/real_net.h"

namespace gemel {
namespace {

struct KeeperConfig {
  std::string socket;
  std::string ready_file;
};

// Each slab is a descriptor.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
      spdlog::warn("the limit of open files stays at {}", limit.rlim_cur);
    }
  }
}

absl::Status Serve(const KeeperConfig& config, EpollLoop* loop, const bool* stop) {
  if (config.socket.empty()) {
    return error::InvalidArgument("--socket is missing: the path that its server is told");
  }
  MetricRegistry metrics;
  LogEvents events(&metrics);
  RealHost host(loop);
  RealNet net(loop, &events, RealNet::Options());
  KeeperService::Seams seams{loop, &net, &host, &events};
  KeeperService service(seams);
  GEMEL_RETURN_IF_ERROR(service.Start("unix://" + config.socket));
  RealProcess process;
  if (!config.ready_file.empty()) {
    GEMEL_RETURN_IF_ERROR(WriteReadyFile(
        config.ready_file,
        fmt::format(R"({{"pid": {}, "version": "{}"}})", process.pid(), GEMEL_VERSION)));
  }
  spdlog::info("keeps for the server that says hello at {}", config.socket);
  loop->RunUntil([stop] { return *stop; }, kTimeNever);
  service.Stop();
  loop->Shutdown();
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  KeeperConfig config;
  CLI::App app("gemel-keeper: holds the memory of a gemel-server that ends or is upgraded");
  app.set_version_flag("--version", GEMEL_VERSION);
  app.add_option("--socket", config.socket, "unix socket for its server");
  app.add_option("--ready-file", config.ready_file, "written as JSON once its server may connect");
  CLI11_PARSE(app, argc, argv);
  StartLog("gemel-keeper");
  std::signal(SIGPIPE, SIG_IGN);  // NOLINT(cert-err33-c)
  RaiseDescriptorLimit();
  absl::StatusOr<std::unique_ptr<EpollLoop>> loop = EpollLoop::Create();
  absl::Status status = loop.status();
  bool stop = false;
  const absl::StatusOr<int> signals =
      loop.ok() ? OpenSignals(loop->get(), &stop) : absl::StatusOr<int>(loop.status());
  status.Update(signals.status());
  status.Update(status.ok() ? Serve(config, loop->get(), &stop) : absl::OkStatus());
  if (signals.ok()) {
    close(*signals);
  }
  if (!status.ok()) {
    std::fprintf(stderr, "gemel-keeper: %s\n", std::string(MessageOf(status)).c_str());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace gemel

int main(int argc, char** argv) { return gemel::Main(argc, argv); }
