// SPDX-License-Identifier: Apache-2.0
//
// Facts of versions and sockets.
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "client/cli/doctor_facts.h"
#include "common/errors.h"

namespace gemel::cli {
namespace {

constexpr Duration kAnswerWithin = 10s;  // a cold interpreter on a slow disk
constexpr mode_t kModeMask = 0777;

std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

// "0.1.0" of what a program prints for --version.
PartVersion VersionOfProgram(const std::string& folder, const std::string& name) {
  PartVersion part{name, "", folder + "/" + name, false};
  const absl::StatusOr<std::string> text = RunCaptured({part.where, "--version"}, kAnswerWithin);
  part.version = text.ok() ? FirstLine(*text) : "";
  return part;
}

// A process that runs, by what it said when it got ready.
PartVersion VersionOfProcess(const std::string& name, const std::string& folder,
                             const ProcessName& process) {
  PartVersion part{name, "", fmt::format("process {}", process.pid), false};
  const absl::StatusOr<std::string> text = ReadTextFile(folder + "/ready.json");
  const nlohmann::json ready =
      nlohmann::json::parse(text.ok() ? *text : std::string(), nullptr, false);
  part.version = ready.is_object() ? ready.value("version", "") : "";
  std::error_code error;
  const std::string program =
      std::filesystem::read_symlink(fmt::format("/proc/{}/exe", process.pid), error).string();
  part.replaced = program.ends_with(" (deleted)");
  return part;
}

constexpr const char* kAskPython =
    "import json, gemel\n"
    "from gemel import _native\n"
    "print(json.dumps({'version': gemel.__version__, 'where': gemel.__path__[0],"
    " 'native': _native.__version__, 'library': _native.__file__}))\n";

void ReadPackage(VersionFacts* facts) {
  facts->package = {"Python package", "", FindProgram("python3"), false};
  facts->native = {"its native module", "", "", false};
  if (facts->package.where.empty()) {
    return;
  }
  const absl::StatusOr<std::string> text =
      RunCaptured({"python3", "-c", kAskPython}, kAnswerWithin);
  const nlohmann::json said =
      nlohmann::json::parse(text.ok() ? *text : std::string(), nullptr, false);
  if (said.is_object()) {
    facts->package = {"Python package", said.value("version", ""), said.value("where", ""), false};
    facts->native = {"its native module", said.value("native", ""), said.value("library", ""),
                     false};
  }
}

// 0 or errno.
int ConnectTo(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return ENAMETOOLONG;
  }
  std::copy(path.begin(), path.end(), address.sun_path);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) {
    return errno;
  }
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  const int failed = connect(fd, generic, sizeof(address)) == 0 ? 0 : errno;
  close(fd);
  return failed == EAGAIN ? 0 : failed;  // its backlog is full: somebody listens
}

}  // namespace

VersionFacts ReadVersionFacts(const ClusterFile* cluster) {
  VersionFacts facts;
  facts.own = GEMEL_VERSION;
  const absl::StatusOr<std::string> folder = ProgramFolder();
  if (folder.ok()) {
    facts.programs = {VersionOfProgram(*folder, "gemel-server"),
                      VersionOfProgram(*folder, "gemel-placement")};
    const std::string beside = std::filesystem::path(*folder).parent_path().string() + "/python";
    facts.package_folder = Exists(beside + "/gemel/__init__.py") ? beside : "";
  }
  if (cluster != nullptr && IsAlive(cluster->placement_process)) {
    facts.processes.push_back(VersionOfProcess("gemel-placement", cluster->dir + "/placement",
                                               cluster->placement_process));
  }
  for (const ServerEntry& server :
       cluster != nullptr ? cluster->servers : std::vector<ServerEntry>()) {
    if (IsAlive(server.process)) {
      facts.processes.push_back(
          VersionOfProcess(server.name, cluster->dir + "/" + server.name, server.process));
    }
  }
  ReadPackage(&facts);
  return facts;
}

SocketFacts ReadSocketFacts(const std::string& address) {
  constexpr std::string_view kUnix = "unix://";
  SocketFacts facts;
  facts.address = address;
  const std::string path = address.starts_with(kUnix) ? address.substr(kUnix.size()) : address;
  struct stat found{};
  if (stat(path.c_str(), &found) != 0) {
    facts.denied = errno == EACCES;
    return facts;
  }
  facts.exists = true;
  facts.is_socket = S_ISSOCK(found.st_mode);
  facts.mode = found.st_mode & kModeMask;
  facts.owner = found.st_uid;
  std::array<char, 1024> names{};
  passwd entry{};
  passwd* known = nullptr;
  getpwuid_r(found.st_uid, &entry, names.data(), names.size(), &known);
  facts.owner_name = known != nullptr ? known->pw_name : fmt::to_string(found.st_uid);
  const int failed = facts.is_socket ? ConnectTo(path) : ENOTSOCK;
  facts.answers = failed == 0;
  facts.error = failed == 0 ? "" : std::strerror(failed);
  facts.denied = failed == EACCES || failed == EPERM;
  return facts;
}

}  // namespace gemel::cli
