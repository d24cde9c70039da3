// SPDX-License-Identifier: Apache-2.0
#include "server/config.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <fstream>

// Header-only: Debian's libtomlplusplus is compiled to throw.
#define TOML_HEADER_ONLY 1
#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include "absl/strings/str_join.h"

#include "common/daemon.h"
#include "common/errors.h"
#include "common/slab_size.h"
#include "common/status_macros.h"
#include "server/byte_size.h"
#include "server/limits.h"
#include "transport/addresses.h"

namespace gemel {
namespace {

struct Setting {
  const char* key;  // in the file; the flag has '-' for '_'
  std::string ServerConfig::* field;
  const char* help;
};

constexpr std::array kSettings = {
    Setting{"dir", &ServerConfig::dir, "folder of its identity and commit records"},
    Setting{"name", &ServerConfig::name, "what people call it"},
    Setting{"domain", &ServerConfig::domain, "failure domain, as pod0/rack3/host7"},
    Setting{"placement", &ServerConfig::placement,
            "address of gemel-placement; several, by commas, where one leads"},
    Setting{"socket", &ServerConfig::socket, "unix socket for clients; default DIR/server.sock"},
    Setting{
        "data_listen", &ServerConfig::data_listen,
        "address for other servers; port 0: any. verbs://HOST:PORT, HOST the address of an RDMA "
        "device on a network of the cluster's own, or tcp://HOST:PORT. Several, one a path to this "
        "host, by commas: what goes here goes over all"},
    Setting{"memory", &ServerConfig::memory, "memory to keep state in, as 4GiB"},
    Setting{"slab_bytes", &ServerConfig::slab_bytes,
            "size of a slab, a multiple of 1MiB; default a 256th of --memory, 1MiB to 64MiB"},
    Setting{"persist_dir", &ServerConfig::persist_dir,
            "folder of persisted snapshots; empty: none are persisted"},
    Setting{
        "keeper", &ServerConfig::keeper,
        "who holds the memory when this process ends: unix://PATH of a gemel-keeper, or systemd"},
    Setting{"metrics", &ServerConfig::metrics, "loopback address for Prometheus"},
    Setting{"congestion", &ServerConfig::congestion, "TCP congestion control of data connections"},
    Setting{"repair_bytes_per_second", &ServerConfig::repair_bytes_per_second,
            "of repairs that can wait; a tenth of the link; 0: no bound"},
    Setting{"scrub_pass_s", &ServerConfig::scrub_pass_s,
            "seconds in which all memory is hashed again; 0: never"},
    Setting{"scrub_disk_pass_s", &ServerConfig::scrub_disk_pass_s,
            "seconds in which the persistent tier is read again; 0: never"},
    Setting{"ready_file", &ServerConfig::ready_file, "written as JSON once clients may connect"},
    Setting{"abort_at", &ServerConfig::abort_at,
            "for tests: POINT[:N] of common/points.h; the process ends there with SIGKILL"},
};

std::string FlagOf(const Setting& setting) {
  std::string flag = std::string("--") + setting.key;
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

absl::Status ApplyFile(const std::string& path, ServerConfig* config) {
  const toml::parse_result parsed = toml::parse_file(path);
  if (!parsed) {
    return error::InvalidArgument("{}, line {}: {}", path, parsed.error().source().begin.line,
                                  parsed.error().description());
  }
  const toml::table* table = parsed["server"].as_table();
  if (table == nullptr) {
    return absl::OkStatus();
  }
  for (const auto& [key, node] : *table) {
    const auto setting = std::find_if(kSettings.begin(), kSettings.end(),
                                      [&key](const auto& one) { return key.str() == one.key; });
    if (setting == kSettings.end()) {
      return error::InvalidArgument("{}: server.{} is no setting of gemel-server", path, key.str());
    }
    if (const auto text = node.value<std::string>()) {
      config->*(setting->field) = *text;
    } else if (const auto number = node.value<int64_t>()) {
      config->*(setting->field) = std::to_string(*number);
    } else {
      return error::InvalidArgument("{}: server.{} is neither text nor a number", path, key.str());
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLoopbackOf(const std::string& address, std::string_view flag) {
  const absl::Status status = CheckLoopback(address);
  return Annotate(status, flag);
}

// Writes the scheme that may be left out. One over verbs is judged by who listens there: it must be
// a device's.
absl::Status CheckDataListen(std::string* addresses) {
  constexpr std::string_view kTcp = "tcp://";
  std::vector<std::string> given = SplitAddresses(*addresses);
  if (given.empty() || given.size() > kAddressesMax) {
    return error::InvalidArgument("--data-listen is '{}': give 1 to {} addresses, by commas",
                                  *addresses, kAddressesMax);
  }
  for (std::string& address : given) {
    if (address.starts_with("verbs://")) {
      continue;
    }
    if (!address.starts_with(kTcp)) {
      address.insert(0, kTcp);
    }
    GEMEL_RETURN_IF_ERROR(CheckLoopbackOf(address.substr(kTcp.size()), "--data-listen"));
  }
  *addresses = absl::StrJoin(given, ",");
  return absl::OkStatus();
}

// A number of seconds of at most a year.
absl::StatusOr<uint32_t> ParseSeconds(const std::string& text, std::string_view flag) {
  constexpr uint32_t kYear = 366 * 86'400;
  uint32_t seconds = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (failed != std::errc() || end != text.data() + text.size() || seconds > kYear) {
    return error::InvalidArgument("{} is '{}': give seconds, 0 to {}", flag, text, kYear);
  }
  return seconds;
}

absl::Status CheckRates(ServerConfig* config) {
  GEMEL_ASSIGN_OR_RETURN(config->repair_rate, ParseByteSize(config->repair_bytes_per_second,
                                                            "--repair-bytes-per-second"));
  if (config->repair_rate > kRepairRateMax) {
    return error::InvalidArgument("--repair-bytes-per-second is '{}': at most {}, or 0: no bound",
                                  config->repair_bytes_per_second, kRepairRateMax);
  }
  GEMEL_ASSIGN_OR_RETURN(config->scrub_seconds,
                         ParseSeconds(config->scrub_pass_s, "--scrub-pass-s"));
  GEMEL_ASSIGN_OR_RETURN(config->scrub_disk_seconds,
                         ParseSeconds(config->scrub_disk_pass_s, "--scrub-disk-pass-s"));
  return absl::OkStatus();
}

// A limit in bytes from a file of the kernel; the greatest number when there is none.
uint64_t LimitIn(const std::string& path) {
  std::ifstream file(path);
  uint64_t limit = 0;
  return file >> limit ? limit : UINT64_MAX;
}

}  // namespace

absl::StatusOr<ServerConfig> ReadServerConfig(int argc, const char* const* argv, bool* finished) {
  ServerConfig flags;
  std::string file;
  CLI::App app("gemel-server: keeps the state of jobs in this host's memory");
  app.set_version_flag("--version", GEMEL_VERSION);
  app.add_option("--config", file, "gemel.toml; its [server] table holds any of these settings");
  for (const Setting& setting : kSettings) {
    app.add_option(FlagOf(setting), flags.*(setting.field), setting.help)->capture_default_str();
  }
  int code = 0;
  const auto parse = [&]() -> int {
    CLI11_PARSE(app, argc, argv);
    return -1;
  };
  code = parse();
  *finished = code == 0;
  if (code > 0) {
    return error::InvalidArgument("the flags above were not understood; see --help");
  }
  ServerConfig config;
  if (!file.empty()) {
    GEMEL_RETURN_IF_ERROR(ApplyFile(file, &config));
  }
  for (const Setting& setting : kSettings) {
    if (app.count(FlagOf(setting)) > 0) {
      config.*(setting.field) = flags.*(setting.field);
    }
  }
  return config;
}

absl::Status CheckServerConfig(ServerConfig* config, uint64_t machine_bytes) {
  if (config->dir.empty()) {
    return error::InvalidArgument("--dir is missing: the folder of this server's identity");
  }
  if (config->name.empty()) {
    return error::InvalidArgument("--name is empty");
  }
  config->domain = config->domain.empty() ? config->name : config->domain;
  config->socket = config->socket.empty() ? config->dir + "/server.sock" : config->socket;
  if (config->persist_dir == kPersistDirDefault) {
    config->persist_dir = config->dir + "/persist";
  }
  if (!config->keeper.empty() && config->keeper != kKeeperSystemd &&
      !config->keeper.starts_with("unix:///")) {
    return error::InvalidArgument(
        "--keeper is '{}': it must be unix:///PATH of a gemel-keeper's socket, or systemd",
        config->keeper);
  }
  GEMEL_RETURN_IF_ERROR(CheckDataListen(&config->data_listen));
  if (!config->metrics.empty()) {
    GEMEL_RETURN_IF_ERROR(CheckLoopbackOf(config->metrics, "--metrics"));
  }
  GEMEL_RETURN_IF_ERROR(CheckRates(config));
  GEMEL_ASSIGN_OR_RETURN(config->memory_size, ParseByteSize(config->memory, "--memory"));
  config->slab_size = DefaultSlabBytes(config->memory_size);
  if (!config->slab_bytes.empty()) {
    GEMEL_ASSIGN_OR_RETURN(config->slab_size, ParseByteSize(config->slab_bytes, "--slab-bytes"));
  }
  if (config->memory_size > machine_bytes) {
    return error::ResourceExhausted(
        "--memory is {} bytes and this machine lets the process use {}: give less",
        config->memory_size, machine_bytes);
  }
  return absl::OkStatus();
}

uint64_t MachineMemoryBytes() {
  const uint64_t physical =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t group = std::min(LimitIn("/sys/fs/cgroup/memory.max"),
                                  LimitIn("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
  return std::min(physical, group);
}

}  // namespace gemel
