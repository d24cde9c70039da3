// SPDX-License-Identifier: Apache-2.0
#include "client/cli/host_facts.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "common/bytes.h"
#include "common/check.h"

namespace gemel::cli {
namespace {

constexpr size_t kCommandBytesMax = 60;
constexpr std::string_view kListening = "0A";  // state column of /proc/net/tcp

uint64_t NumberIn(const std::string& path, uint64_t otherwise) {
  std::ifstream file(path);
  uint64_t value = 0;
  return file >> value ? value : otherwise;
}

// A line of /proc/meminfo, in bytes.
uint64_t MeminfoBytes(const std::string& key) {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string name;
    uint64_t kibibytes = 0;
    if (fields >> name >> kibibytes && name == key + ":") {
      return kibibytes * kKiB;
    }
  }
  return 0;
}

// The path of this process in the hierarchy that counts memory: version 1 names the controller,
// version 2 is the line "0::".
std::string GroupPath(std::string_view controller) {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second != std::string::npos &&
        line.substr(first + 1, second - first - 1) == std::string(controller)) {
      return line.substr(second + 1);
    }
  }
  return "/";
}

// The strictest limit from this process's group up to the root that is visible here.
void TakeGroupLimit(const std::string& root, std::string path, const std::string& limit_name,
                    const std::string& used_name, MachineMemory* memory) {
  while (true) {
    const std::string folder = root + (path == "/" ? "" : path);
    const uint64_t limit = NumberIn(fmt::format("{}/{}", folder, limit_name), kNoLimit);
    if (limit < memory->group_limit_bytes && limit < memory->physical_bytes) {
      memory->group_limit_bytes = limit;
      memory->group_used_bytes = NumberIn(fmt::format("{}/{}", folder, used_name), 0);
      memory->group_file = fmt::format("{}/{}", folder, limit_name);
    }
    if (path.size() <= 1) {
      return;
    }
    path = path.substr(0, std::max<size_t>(1, path.rfind('/')));
  }
}

struct Listener {
  std::string inode;
  uid_t user = 0;
};

// Line of /proc/net/tcp: "sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout
// inode".
std::optional<Listener> ListenerIn(const std::string& table, uint16_t port) {
  std::ifstream file(table);
  std::string line;
  std::getline(file, line);  // the titles
  const std::string wanted = fmt::format(":{:04X}", port);
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    std::string slot;
    std::string local;
    std::string remote;
    std::string state;
    std::string queues;
    std::string timer;
    std::string retries;
    std::string timeout;
    Listener found;
    fields >> slot >> local >> remote >> state >> queues >> timer >> retries >> found.user >>
        timeout >> found.inode;
    if (fields && state == kListening && local.ends_with(wanted)) {
      return found;
    }
  }
  return std::nullopt;
}

bool HoldsSocket(const std::filesystem::path& process, const std::string& inode) {
  std::error_code error;
  const std::string wanted = fmt::format("socket:[{}]", inode);
  for (std::filesystem::directory_iterator entry(process / "fd", error), end;
       !error && entry != end; entry.increment(error)) {
    std::error_code unreadable;
    if (std::filesystem::read_symlink(entry->path(), unreadable).string() == wanted) {
      return true;
    }
  }
  return false;
}

pid_t PidOf(const std::string& inode) {
  GEMEL_CHECK(!inode.empty());
  std::error_code error;
  for (std::filesystem::directory_iterator entry("/proc", error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    pid_t pid = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (parsed.ec == std::errc() && parsed.ptr == name.data() + name.size() &&
        HoldsSocket(entry->path(), inode)) {
      return pid;
    }
  }
  return 0;
}

}  // namespace

MachineMemory ReadMachineMemory() {
  MachineMemory memory;
  memory.physical_bytes =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  GEMEL_CHECK_GT(memory.physical_bytes, 0U);
  memory.available_bytes = MeminfoBytes("MemAvailable");
  TakeGroupLimit("/sys/fs/cgroup", GroupPath(""), "memory.max", "memory.current", &memory);
  TakeGroupLimit("/sys/fs/cgroup/memory", GroupPath("memory"), "memory.limit_in_bytes",
                 "memory.usage_in_bytes", &memory);
  return memory;
}

std::optional<PortHolder> HolderOfPort(uint16_t port) {
  std::optional<Listener> found = ListenerIn("/proc/net/tcp", port);
  if (!found.has_value()) {
    found = ListenerIn("/proc/net/tcp6", port);
  }
  if (!found.has_value()) {
    return std::nullopt;
  }
  PortHolder holder;
  holder.user = found->user;
  holder.pid = PidOf(found->inode);
  holder.command = holder.pid == 0 ? "" : CommandOf(holder.pid);
  return holder;
}

std::string Describe(const PortHolder& holder) {
  if (holder.pid == 0) {
    return fmt::format("a process of user {}", holder.user);
  }
  return fmt::format("process {} ({})", holder.pid, holder.command);
}

uint16_t PortOf(const std::string& address) {
  const size_t colon = address.rfind(':');
  uint16_t port = 0;
  if (colon != std::string::npos) {
    std::from_chars(address.data() + colon + 1, address.data() + address.size(), port);
  }
  return port;
}

std::string CommandOf(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/cmdline", pid), std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  std::string command = text.str();
  while (!command.empty() && command.back() == '\0') {
    command.pop_back();
  }
  std::replace(command.begin(), command.end(), '\0', ' ');
  std::replace(command.begin(), command.end(), '\n', ' ');
  if (command.size() > kCommandBytesMax) {
    command = command.substr(0, kCommandBytesMax) + "...";
  }
  return command;
}

}  // namespace gemel::cli
