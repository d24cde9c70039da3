// SPDX-License-Identifier: Apache-2.0
//
// gemel-placement: one placement manager on its MetaStore, serving gRPC on loopback.
#include <prometheus/exposer.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "common/abort_at.h"
#include "common/daemon.h"
#include "common/epoll_loop.h"
#include "common/errors.h"
#include "common/real_process.h"
#include "common/status_macros.h"
#include "placement/manager/manager.h"
#include "placement/manager/open_store.h"
#include "transport/control/grpc_server.h"
#include "transport/real_net.h"

namespace gemel {
namespace {

struct Flags {
  StoreFlags store;
  std::string listen = "127.0.0.1:7601";
  std::string name = "placement";
  std::string metrics;
  std::string ready_file;
  std::string abort_at;
  bool recover_from_servers = false;
  bool accept_loss = false;
};

Task<int> StopAll(GrpcServer* server, PlacementManager* manager) {
  // First it leads no more: one that hears nobody must not judge by it.
  co_await manager->Stop();
  const absl::Status stopped = co_await server->Stop();
  if (!stopped.ok()) {
    spdlog::warn("{}", ToText(stopped));
  }
  co_return 0;
}

absl::Status Serve(const Flags& flags, EpollLoop* loop, bool* stop) {
  MetricRegistry metrics;
  LogEvents events(&metrics);
  RealProcess process;
  Random random(process.Entropy64());
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<MetaStore> store, OpenStore(loop, &random, flags.store));
  RealNet net(loop, &events, {});
  PlacementOptions options;
  options.name = flags.name;
  options.address = flags.listen;
  options.shared_store = !flags.store.address.empty();
  options.recover_from_servers = flags.recover_from_servers;
  options.accept_loss = flags.accept_loss;
  const PlacementSeams seams{loop, &random, store.get(), &net, &events, &metrics};
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementManager> manager,
                         RunToEnd(loop, PlacementManager::Start(options, seams)));
  absl::StatusOr<std::unique_ptr<GrpcServer>> server =
      GrpcServer::Start(loop, flags.listen, manager.get());
  absl::Status status = server.status();
  std::unique_ptr<prometheus::Exposer> exposer;
  auto exposed = std::make_shared<Exposed>(&metrics);
  if (status.ok() && !flags.metrics.empty()) {
    exposer = std::make_unique<prometheus::Exposer>(flags.metrics, 1);
    exposer->RegisterCollectable(exposed);
  }
  if (status.ok()) {
    spdlog::info("{} serves at {}: {}", flags.name, (*server)->address(), manager->Describe());
    if (!flags.ready_file.empty()) {
      status = WriteReadyFile(
          flags.ready_file,
          fmt::format(R"({{"address": "{}", "pid": {}, "cluster_id": "{}", "version": "{}"}})",
                      (*server)->address(), process.pid(), manager->cluster().ToHex(),
                      GEMEL_VERSION));
    }
  }
  if (status.ok()) {
    loop->RunUntil([stop] { return *stop; }, kTimeNever);
  }
  if (server.ok()) {
    RunToEnd(loop, StopAll(server->get(), manager.get()));
  }
  exposer.reset();
  loop->Shutdown();
  return status;
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("gemel-placement: decides who keeps what, who is alive, what is committed");
  app.add_option("--dir", flags.store.dir, "folder of its store, for one manager");
  app.add_option("--store", flags.store.address,
                 "etcd://HOST:PORT,HOST:PORT/NAME instead of --dir: keep everything in etcd");
  app.add_option("--etcd-cacert", flags.store.authorities_file,
                 "PEM: who signs the certificates of etcd; without it only loopback addresses");
  app.add_option("--etcd-cert", flags.store.certificate_file, "PEM: our certificate for etcd");
  app.add_option("--etcd-key", flags.store.key_file, "PEM: the key of --etcd-cert");
  app.add_option("--listen", flags.listen, "loopback address; port 0 lets the system choose");
  app.add_option("--name", flags.name, "for messages");
  app.add_option("--metrics", flags.metrics, "loopback address for Prometheus");
  app.add_option("--ready-file", flags.ready_file, "written with address and pid once it serves");
  app.add_option("--abort-at", flags.abort_at,
                 "for tests: POINT[:N] of common/points.h; the process ends there with SIGKILL");
  app.add_flag("--recover-from-servers", flags.recover_from_servers,
               "rebuild a lost store from what the servers keep");
  app.add_flag("--accept-loss", flags.accept_loss, "recover without a majority of the servers");
  app.set_version_flag("--version", GEMEL_VERSION);
  CLI11_PARSE(app, argc, argv);
  StartLog("placement");

  absl::Status status = CheckLoopback(flags.listen);
  if (status.ok() && !flags.metrics.empty()) {
    status = CheckLoopback(flags.metrics);
  }
  absl::StatusOr<std::unique_ptr<AbortAt>> abort_at =
      AbortAt::Set(status.ok() ? flags.abort_at : std::string());
  status.Update(abort_at.status());
  absl::StatusOr<std::unique_ptr<EpollLoop>> loop = EpollLoop::Create();
  status.Update(loop.status());
  bool stop = false;
  int signals = -1;
  if (status.ok()) {
    const absl::StatusOr<int> opened = OpenSignals(loop->get(), &stop);
    status.Update(opened.status());
    signals = opened.value_or(-1);
  }
  status.Update(status.ok() ? Serve(flags, loop->get(), &stop) : absl::OkStatus());
  if (loop.ok()) {
    (*loop)->Shutdown();
  }
  if (signals >= 0) {
    close(signals);
  }
  if (!status.ok()) {
    std::fprintf(stderr, "gemel-placement: %s\n", std::string(MessageOf(status)).c_str());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace gemel

int main(int argc, char** argv) { return gemel::Main(argc, argv); }
