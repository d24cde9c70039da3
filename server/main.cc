// SPDX-License-Identifier: Apache-2.0
//
// gemel-server: one server of a host, on the production seams.
#include <prometheus/client_metric.h>
#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>
#include <prometheus/metric_type.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "common/abort_at.h"
#include "common/copies.h"
#include "common/daemon.h"
#include "common/epoll_loop.h"
#include "common/errors.h"
#include "common/real_disk.h"
#include "common/real_process.h"
#include "common/scheduling.h"
#include "common/status_macros.h"
#include "server/config.h"
#include "server/keeper/keeper_link.h"
#include "server/keeper/systemd_store.h"
#include "server/limits.h"
#include "server/metric_names.h"
#include "server/persist/rocksdb_persist.h"
#include "server/server.h"
#include "transport/control/grpc_channel.h"
#include "transport/local/real_host.h"
#include "transport/real_net.h"

namespace gemel {
namespace {

std::string JsonString(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted.push_back('\\');
    }
    quoted.push_back(c);
  }
  return quoted + "\"";
}

// `metrics_port`: 0 when there are none.
std::string ReadyText(const ServerConfig& config, const Server& server, uint64_t pid,
                      int metrics_port) {
  return fmt::format(
      R"({{"server_id": "{}", "name": {}, "pid": {}, "socket": {}, "data_address": "{}", )"
      R"("metrics_port": {}, "version": "{}"}})",
      server.id().ToHex(), JsonString(config.name), pid, JsonString(config.socket),
      server.data_address(), metrics_port, GEMEL_VERSION);
}

// A task's result, seen from outside the loop.
template <typename T>
struct TaskResult {
  std::optional<T> value;

  static Task<void> Run(Task<T> task, TaskResult* out) {
    out->value.emplace(co_await std::move(task));
  }
};

Task<bool> StopServer(Server* server) {
  co_await server->Stop();
  co_return true;
}

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

// What holds the memory over this process's end; `systemd` is set when that is the service manager.
absl::StatusOr<std::unique_ptr<Keeper>> MakeKeeper(const ServerConfig& config,
                                                   const ServerSeams& seams,
                                                   SystemdStore** systemd) {
  if (config.keeper.empty()) {
    return std::unique_ptr<Keeper>();
  }
  if (config.keeper == kKeeperSystemd) {
    GEMEL_ASSIGN_OR_RETURN(const SystemdStore::Passed passed,
                           SystemdStore::FromEnvironment(seams.process->pid()));
    GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<SystemdStore> store,
                           SystemdStore::Create(seams.loop, seams.host, passed));
    *systemd = store.get();
    return std::unique_ptr<Keeper>(std::move(store));
  }
  return std::unique_ptr<Keeper>(
      std::make_unique<KeeperLink>(seams.loop, seams.net, seams.events, config.keeper));
}

struct Running {
  EpollLoop* loop;
  Server* server;
  MetricRegistry* metrics;
  SystemdStore* systemd;  // null: nobody is told
};

absl::Status Run(const ServerConfig& config, const Running& running, bool* stop) {
  EpollLoop* const loop = running.loop;
  Server* const server = running.server;
  PreferShortSlices();
  TaskResult<absl::Status> started;
  loop->Spawn(TaskResult<absl::Status>::Run(server->Start(), &started));
  loop->RunUntil([&] { return started.value.has_value() || *stop; }, kTimeNever);
  if (!started.value.has_value()) {
    return absl::OkStatus();  // stopped before it was ready
  }
  GEMEL_RETURN_IF_ERROR(*started.value);
  std::unique_ptr<prometheus::Exposer> exposer;
  Metric& copied = running.metrics->Counter(kCopiedBytesMetric, "");
  const auto exposed = std::make_shared<Exposed>(
      running.metrics, [&copied] { copied.Set(static_cast<int64_t>(CopiedBytes())); });
  int metrics_port = 0;
  if (!config.metrics.empty()) {
    exposer = std::make_unique<prometheus::Exposer>(config.metrics, 1);
    exposer->RegisterCollectable(exposed);
    const std::vector<int> ports = exposer->GetListeningPorts();
    GEMEL_CHECK_EQ(ports.size(), 1U) << config.metrics;
    metrics_port = ports.front();
  }
  RealProcess process;
  if (!config.ready_file.empty()) {
    GEMEL_RETURN_IF_ERROR(
        WriteReadyFile(config.ready_file, ReadyText(config, *server, process.pid(), metrics_port)));
  }
  if (running.systemd != nullptr) {
    GEMEL_RETURN_IF_ERROR(running.systemd->NotifyReady());
  }
  spdlog::info("{} is ready: clients at {}, servers at {}", config.name, config.socket,
               server->data_address());
  loop->RunUntil([stop] { return *stop; }, kTimeNever);
  TaskResult<bool> stopped;
  loop->Spawn(TaskResult<bool>::Run(StopServer(server), &stopped));
  constexpr Duration kStopPatience = 5s;
  loop->RunUntil([&] { return stopped.value.has_value(); }, Add(loop->Now(), kStopPatience));
  return absl::OkStatus();
}

absl::Status Serve(const ServerConfig& config, EpollLoop* loop, bool* stop) {
  MetricRegistry metrics;
  LogEvents events(&metrics);
  RealProcess process;
  RealHost host(loop);
  RealNet::Options net_options;
  net_options.tcp.congestion_control = config.congestion;
  net_options.tcp.by_reference = SendByReference::kWhenContended;
  RealNet net(loop, &events, net_options);
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<RealDisk> disk,
                         OpenWhenFree(loop, [&] { return RealDisk::Open(loop, config.dir); }));
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<FailoverChannel> placement,
                         ConnectToPlacement(loop, config.placement));
  std::unique_ptr<RocksdbPersist> persist;  // it may hold objects until it is destroyed
  if (!config.persist_dir.empty()) {
    RocksdbPersist::Options tier;
    tier.dir = config.persist_dir;
    persist = RocksdbPersist::Start(loop, std::move(tier));
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
  seams.persist = persist.get();
  SystemdStore* systemd = nullptr;
  GEMEL_ASSIGN_OR_RETURN(const std::unique_ptr<Keeper> keeper, MakeKeeper(config, seams, &systemd));
  seams.keeper = keeper.get();
  ServerOptions options;
  options.name = config.name;
  options.domain = config.domain;
  options.client_address = "unix://" + config.socket;
  options.data_address = config.data_listen;
  options.memory_bytes = config.memory_size;
  options.slab_bytes = config.slab_size;
  options.repair_bytes_per_second = config.repair_rate;
  options.scrub.memory_pass = std::chrono::seconds(config.scrub_seconds);
  options.scrub.disk_pass = std::chrono::seconds(config.scrub_disk_seconds);
  absl::Status fatal;
  Server server(seams, options, [&fatal, stop](const absl::Status& why) {
    fatal = why;
    *stop = true;
  });
  absl::Status status = Run(config, Running{loop, &server, &metrics, systemd}, stop);
  // Tasks go before the parts they run in.
  loop->Shutdown();
  status.Update(fatal);
  return status;
}

int Main(int argc, char** argv) {
  bool finished = false;
  absl::StatusOr<ServerConfig> config = ReadServerConfig(argc, argv, &finished);
  if (finished) {
    return 0;
  }
  StartLog(config.ok() ? config->name : "gemel-server");
  std::signal(SIGPIPE, SIG_IGN);  // NOLINT(cert-err33-c)
  absl::Status status = config.status();
  status.Update(status.ok() ? CheckServerConfig(&*config, MachineMemoryBytes()) : absl::OkStatus());
  absl::StatusOr<std::unique_ptr<AbortAt>> abort_at =
      AbortAt::Set(status.ok() ? config->abort_at : std::string());
  status.Update(abort_at.status());
  if (status.ok()) {
    RaiseDescriptorLimit();
    absl::StatusOr<std::unique_ptr<EpollLoop>> loop = EpollLoop::Create();
    status.Update(loop.status());
    if (loop.ok()) {
      (*loop)->SpinFor(kSpinMost);
    }
    bool stop = false;
    const absl::StatusOr<int> signals =
        loop.ok() ? OpenSignals(loop->get(), &stop) : absl::StatusOr<int>(loop.status());
    status.Update(signals.status());
    status.Update(status.ok() ? Serve(*config, loop->get(), &stop) : absl::OkStatus());
    if (signals.ok()) {
      close(*signals);
    }
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
