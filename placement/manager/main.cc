// SPDX-License-Identifier: Apache-2.0
//
// gemel-placement: one placement manager with an embedded RocksDB, serving gRPC on loopback.
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include "common/epoll_loop.h"
#include "common/errors.h"
#include "common/real_process.h"
#include "placement/manager/manager.h"
#include "placement/store/rocksdb_store.h"
#include "transport/control/grpc_server.h"
#include "transport/real_net.h"

namespace gemel {
namespace {

struct Flags {
  std::string dir;
  std::string listen = "127.0.0.1:7601";
  std::string name = "placement";
  std::string metrics;
  std::string ready_file;
  bool recover_from_servers = false;
  bool accept_loss = false;
};

class LogEvents final : public EventSink {
 public:
  explicit LogEvents(MetricRegistry* metrics)
      : warnings_(metrics->Counter("gemel_warnings_total", "events of severity warning or error")) {
  }

  void Emit(Severity severity, std::string_view name, std::string text) override {
    if (severity != Severity::kInfo) {
      warnings_.Add(1);
    }
    const auto level = severity == Severity::kInfo      ? spdlog::level::info
                       : severity == Severity::kWarning ? spdlog::level::warn
                                                        : spdlog::level::err;
    spdlog::log(level, "{}: {}", name, text);
  }

 private:
  Metric& warnings_;
};

// Read by the exposer's thread; all metrics are registered before it starts.
class Exposed final : public prometheus::Collectable {
 public:
  explicit Exposed(const MetricRegistry* metrics) : metrics_(metrics) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families;
    for (const auto& [name, metric] : metrics_->all()) {
      prometheus::MetricFamily family;
      family.name = name;
      family.help = metric->help();
      prometheus::ClientMetric value;
      if (metric->kind() == Metric::Kind::kCounter) {
        family.type = prometheus::MetricType::Counter;
        value.counter.value = static_cast<double>(metric->Get());
      } else {
        family.type = prometheus::MetricType::Gauge;
        value.gauge.value = static_cast<double>(metric->Get());
      }
      family.metric.push_back(value);
      families.push_back(family);
    }
    return families;
  }

 private:
  const MetricRegistry* metrics_;
};

absl::Status CheckLoopback(const std::string& address) {
  if (address.starts_with("127.") || address.starts_with("localhost:") ||
      address.starts_with("[::1]:")) {
    return absl::OkStatus();
  }
  return error::PermissionDenied(
      "'{}' is not a loopback address; until TLS exists give 127.0.0.1:PORT", address);
}

// Whole or not at all, for whoever waits for the file.
absl::Status WriteReadyFile(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".tmp";
  {
    std::ofstream out(temporary, std::ios::trunc);
    out << text << "\n";
    if (!out.flush()) {
      return error::Unavailable("cannot write the ready file {}", temporary);
    }
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    return error::Unavailable("cannot rename {} to {}", temporary, path);
  }
  return absl::OkStatus();
}

// Runs `task` on `loop` until it ends.
template <typename T>
T RunToEnd(EpollLoop* loop, Task<T> task) {
  std::optional<T> result;
  struct Runner {
    static Task<void> Run(Task<T> inner, std::optional<T>* out) {
      out->emplace(co_await std::move(inner));
    }
  };
  loop->Spawn(Runner::Run(std::move(task), &result));
  loop->RunUntil([&] { return result.has_value(); }, kTimeNever);
  GEMEL_CHECK(result.has_value());
  return std::move(*result);
}

Task<int> StopAll(GrpcServer* server, PlacementManager* manager) {
  const absl::Status stopped = co_await server->Stop();
  if (!stopped.ok()) {
    spdlog::warn("{}", ToText(stopped));
  }
  co_await manager->Stop();
  co_return 0;
}

// SIGTERM and SIGINT, blocked in all threads, as a descriptor of the loop.
absl::StatusOr<int> OpenSignals(EpollLoop* loop, bool* stop) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  if (sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) {
    return error::Internal("sigprocmask failed");
  }
  const int fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
  if (fd < 0) {
    return error::Internal("signalfd failed");
  }
  loop->Watch(fd, EPOLLIN, [fd, stop](uint32_t) {
    signalfd_siginfo info;
    while (read(fd, &info, sizeof(info)) == sizeof(info)) {
      spdlog::info("signal {}: stopping", info.ssi_signo);
      *stop = true;
    }
  });
  return fd;
}

absl::Status Serve(const Flags& flags, EpollLoop* loop, bool* stop) {
  MetricRegistry metrics;
  LogEvents events(&metrics);
  RealProcess process;
  Random random(process.Entropy64());
  RocksdbStore::Options store_options;
  store_options.dir = flags.dir;
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<RocksdbStore> store,
                         RocksdbStore::Open(loop, store_options));
  RealNet net(loop, &events, {});
  PlacementOptions options;
  options.name = flags.name;
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
          fmt::format(R"({{"address": "{}", "pid": {}, "cluster_id": "{}"}})", (*server)->address(),
                      process.pid(), manager->cluster().ToHex()));
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
  app.add_option("--dir", flags.dir, "folder of its store")->required();
  app.add_option("--listen", flags.listen, "loopback address; port 0 lets the system choose");
  app.add_option("--name", flags.name, "for messages");
  app.add_option("--metrics", flags.metrics, "loopback address for Prometheus");
  app.add_option("--ready-file", flags.ready_file, "written with address and pid once it serves");
  app.add_flag("--recover-from-servers", flags.recover_from_servers,
               "rebuild a lost store from what the servers keep");
  app.add_flag("--accept-loss", flags.accept_loss, "recover without a majority of the servers");
  CLI11_PARSE(app, argc, argv);
  spdlog::set_default_logger(spdlog::stderr_logger_mt("placement"));

  absl::Status status = CheckLoopback(flags.listen);
  if (status.ok() && !flags.metrics.empty()) {
    status = CheckLoopback(flags.metrics);
  }
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
