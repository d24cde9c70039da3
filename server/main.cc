// SPDX-License-Identifier: Apache-2.0
//
// gemel-server: owns the memory that Gemel keeps on this host.
#include <prometheus/exposer.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>

#include "common/daemon.h"
#include "common/errors.h"
#include "common/real_disk.h"
#include "common/real_process.h"
#include "common/status_macros.h"
#include "server/server.h"
#include "transport/control/grpc_channel.h"
#include "transport/local/real_host.h"
#include "transport/real_net.h"

namespace gemel {
namespace {

struct Flags {
  std::string dir;
  std::string name = "server";
  std::string domain = "host";
  std::string placement = "127.0.0.1:7601";
  std::string socket;
  std::string data_listen = "tcp://127.0.0.1:7611";
  std::string metrics;
  std::string congestion = "cubic";
  std::string ready_file;
  uint64_t memory_bytes = kGiB;
  uint64_t slab_bytes = kSlabBytesDefault;
};

absl::Status CheckFlags(const Flags& flags) {
  const auto there =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  if (flags.memory_bytes > there) {
    return error::ResourceExhausted("--memory of {} MiB is more than this machine's {} MiB",
                                    flags.memory_bytes / kMiB, there / kMiB);
  }
  return flags.metrics.empty() ? absl::OkStatus() : CheckLoopback(flags.metrics);
}

struct Starter {
  static Task<void> Run(Server* server, std::optional<absl::Status>* out) {
    out->emplace(co_await server->Start());
  }
};

struct Stopper {
  static Task<void> Run(Server* server, bool* stopped) {
    co_await server->Stop();
    *stopped = true;
  }
};

// Runs until *stop or until the cluster refuses this server.
absl::Status RunServer(const Flags& flags, const ServerSeams& seams, EpollLoop* loop, bool* stop) {
  ServerOptions options;
  options.name = flags.name;
  options.domain = flags.domain;
  options.client_address =
      "unix://" + (flags.socket.empty() ? flags.dir + "/server.sock" : flags.socket);
  options.data_address = flags.data_listen;
  options.memory_bytes = flags.memory_bytes;
  options.slab_bytes = flags.slab_bytes;
  absl::Status fatal = absl::OkStatus();
  Server server(seams, options, [&fatal, stop](const absl::Status& why) {
    fatal = why;
    *stop = true;
  });
  std::optional<absl::Status> started;

  loop->Spawn(Starter::Run(&server, &started));
  // A signal also ends a start that waits for placement.
  loop->RunUntil([&] { return started.has_value() || *stop; }, kTimeNever);
  absl::Status status = started.value_or(absl::OkStatus());
  if (started.has_value() && status.ok()) {
    spdlog::info("{} serves {} and {}", flags.name, options.client_address, server.data_address());
    if (!flags.ready_file.empty()) {
      status = WriteReadyFile(
          flags.ready_file,
          fmt::format(
              R"({{"server_id": "{}", "name": "{}", "pid": {}, "socket": "{}", "data_address": "{}"}})",
              server.id().ToHex(), flags.name, seams.process->pid(), options.client_address,
              server.data_address()));
    }
  }
  if (started.has_value() && status.ok()) {
    loop->RunUntil([stop] { return *stop; }, kTimeNever);
    bool stopped = false;
    loop->Spawn(Stopper::Run(&server, &stopped));
    const bool waited = loop->RunUntil([&stopped] { return stopped; }, Add(loop->Now(), 3s));
    spdlog::info("{} stops{}", flags.name, waited ? "" : " with calls in flight");
  }
  loop->Shutdown();
  return status.ok() ? fatal : status;
}

absl::Status Serve(const Flags& flags, EpollLoop* loop, bool* stop) {
  MetricRegistry metrics;
  LogEvents events(&metrics);
  RealProcess process;
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<RealDisk> disk, RealDisk::Open(loop, flags.dir));
  RealNet::Options net_options;
  net_options.tcp.congestion_control = flags.congestion;
  RealNet net(loop, &events, net_options);
  RealHost host(loop);
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<GrpcChannel> placement,
                         GrpcChannel::Create(loop, flags.placement));
  std::unique_ptr<prometheus::Exposer> exposer;
  auto exposed = std::make_shared<Exposed>(&metrics);
  if (!flags.metrics.empty()) {
    exposer = std::make_unique<prometheus::Exposer>(flags.metrics, 1);
    exposer->RegisterCollectable(exposed);
  }
  ServerSeams seams;
  seams.loop = loop;
  seams.net = &net;
  seams.host = &host;
  seams.disk = disk.get();
  seams.process = &process;
  seams.placement = placement.get();
  seams.events = &events;
  seams.metrics = &metrics;
  absl::Status status = RunServer(flags, seams, loop, stop);
  exposer.reset();
  return status;
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("gemel-server: owns the memory that Gemel keeps on this host");
  app.set_config("--config", "", "file of the same keys (TOML)");
  app.add_option("--dir", flags.dir, "folder of its identity and records")->required();
  app.add_option("--name", flags.name, "for messages");
  app.add_option("--domain", flags.domain, "failure domain, like pod0/rack3/host7");
  app.add_option("--placement", flags.placement, "address of gemel-placement");
  app.add_option("--socket", flags.socket, "unix socket for clients; default DIR/server.sock");
  app.add_option("--data-listen", flags.data_listen, "loopback address for other servers");
  app.add_option("--memory", flags.memory_bytes, "bytes, or 64MiB, 1GiB")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--slab-bytes", flags.slab_bytes, "unit of memory, whole MiB")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--metrics", flags.metrics, "loopback address for Prometheus");
  app.add_option("--congestion", flags.congestion, "TCP congestion control of data connections");
  app.add_option("--ready-file", flags.ready_file, "written once clients may connect");
  CLI11_PARSE(app, argc, argv);
  StartLog(flags.name);
  std::signal(SIGPIPE, SIG_IGN);  // NOLINT(cert-err33-c)

  absl::Status status = CheckFlags(flags);
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
  if (loop.ok() && !(*loop)->is_shut_down()) {
    (*loop)->Shutdown();
  }
  if (signals >= 0) {
    close(signals);
  }
  if (!status.ok()) {
    std::fprintf(stderr, "gemel-server: %s\n", std::string(MessageOf(status)).c_str());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace gemel

int main(int argc, char** argv) { return gemel::Main(argc, argv); }
