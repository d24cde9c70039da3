// SPDX-License-Identifier: Apache-2.0
#include "client/cli/host_processes.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "common/check.h"
#include "common/errors.h"

namespace gemel::cli {
namespace {

constexpr int kExecFailed = 127;
constexpr Duration kPollEvery = 10ms;
constexpr size_t kStartTimeField =
    19;  // counted from the field after the command's closing bracket

pid_t g_foreground = 0;  // for the handler that passes signals on

void PassOn(int signal_number) {
  if (g_foreground > 0) {
    kill(g_foreground, signal_number);
  }
}

std::vector<char*> Argv(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (const std::string& word : command) {
    argv.push_back(const_cast<char*>(word.c_str()));
  }
  argv.push_back(nullptr);
  return argv;
}

// Zero when there is no such process or it is a zombie.
uint64_t StartTicks(pid_t pid) {
  std::ifstream stat(fmt::format("/proc/{}/stat", pid));
  std::string line;
  std::getline(stat, line);
  const size_t bracket = line.rfind(')');
  if (bracket == std::string::npos) {
    return 0;
  }
  std::istringstream fields(line.substr(bracket + 2));
  std::string field;
  for (size_t i = 0; fields >> field; ++i) {
    if (i == 0 && (field == "Z" || field == "X")) {
      return 0;
    }
    if (i == kStartTimeField) {
      return std::strtoull(field.c_str(), nullptr, 10);
    }
  }
  return 0;
}

[[noreturn]] void BecomeDaemon(const std::vector<std::string>& command, int log_fd) {
  setsid();
  const int null_fd = open("/dev/null", O_RDONLY);
  if (null_fd < 0 || log_fd < 0) {
    _exit(kExecFailed);
  }
  dup2(null_fd, STDIN_FILENO);
  dup2(log_fd, STDOUT_FILENO);
  dup2(log_fd, STDERR_FILENO);
  std::vector<char*> argv = Argv(command);
  execv(argv[0], argv.data());
  dprintf(STDERR_FILENO, "cannot run %s: %s\n", argv[0], std::strerror(errno));
  _exit(kExecFailed);
}

}  // namespace

absl::StatusOr<ProcessName> StartDetached(const std::vector<std::string>& command,
                                          const std::string& log_path) {
  GEMEL_CHECK(!command.empty());
  if (access(command[0].c_str(), X_OK) != 0) {
    return error::NotFound("{} is not there or cannot be run; build it, or install Gemel whole",
                           command[0]);
  }
  const int log_fd = open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (log_fd < 0) {
    return error::Unavailable("cannot write the log {}: {}", log_path, std::strerror(errno));
  }
  const pid_t pid = fork();
  if (pid == 0) {
    BecomeDaemon(command, log_fd);
  }
  close(log_fd);
  if (pid < 0) {
    return error::ResourceExhausted("cannot start {}: {}", command[0], std::strerror(errno));
  }
  return ProcessName{pid, StartTicks(pid)};
}

bool IsAlive(const ProcessName& process) {
  // Reaps it when it is our own child, so that it does not stay as a zombie.
  waitpid(process.pid, nullptr, WNOHANG);
  return process.pid > 0 && process.start_ticks != 0 &&
         StartTicks(process.pid) == process.start_ticks;
}

bool AskToStop(const ProcessName& process) {
  return IsAlive(process) && kill(process.pid, SIGTERM) == 0;
}

bool StopProcess(const ProcessName& process, Duration patience) {
  if (!AskToStop(process)) {
    return false;
  }
  const TimePoint give_up = Add(Now(), patience);
  while (IsAlive(process)) {
    if (Now() >= give_up) {
      kill(process.pid, SIGKILL);
    }
    Pause(kPollEvery);
  }
  return true;
}

absl::StatusOr<int> RunForeground(
    const std::vector<std::string>& command,
    const std::vector<std::pair<std::string, std::string>>& environment) {
  GEMEL_CHECK(!command.empty());
  g_foreground = fork();
  if (g_foreground == 0) {
    for (const auto& [name, value] : environment) {
      setenv(name.c_str(), value.c_str(), 1);
    }
    std::vector<char*> argv = Argv(command);
    execvp(argv[0], argv.data());
    dprintf(STDERR_FILENO, "gemel run: cannot run %s: %s\n", argv[0], std::strerror(errno));
    _exit(kExecFailed);
  }
  if (g_foreground < 0) {
    return error::ResourceExhausted("cannot start {}: {}", command[0], std::strerror(errno));
  }
  struct sigaction action{};
  action.sa_handler = PassOn;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  int status = 0;
  while (waitpid(g_foreground, &status, 0) < 0 && errno == EINTR) {
  }
  g_foreground = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

absl::StatusOr<std::string> ProgramFolder() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) {
    return error::Internal("cannot tell where this program lies: {}", error.message());
  }
  return program.parent_path().string();
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    return error::NotFound("{} is not there", path);
  }
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

absl::Status WriteTextFile(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".new";
  {
    std::ofstream file(temporary, std::ios::trunc);
    file << text;
    file.flush();
    if (!file) {
      return error::Unavailable("cannot write {}: is the disk full, or not yours?", temporary);
    }
  }
  return MoveAside(temporary, path);
}

absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    return error::Unavailable("cannot make the folder {}: {}", path, error.message());
  }
  return absl::OkStatus();
}

absl::Status MoveAside(const std::string& from, const std::string& to) {
  std::error_code error;
  std::filesystem::rename(from, to, error);
  if (error) {
    return error::Unavailable("cannot rename {} to {}: {}", from, to, error.message());
  }
  return absl::OkStatus();
}

void RemoveTree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
}

bool Exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

std::string TailOf(const std::string& path, size_t lines) {
  std::ifstream file(path);
  std::vector<std::string> all;
  for (std::string line; std::getline(file, line);) {
    all.push_back(line);
  }
  std::string tail;
  for (size_t i = all.size() - std::min(lines, all.size()); i < all.size(); ++i) {
    tail += "\n  " + all[i];
  }
  return tail;
}

uint64_t MachineMemoryBytes() {
  return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
         static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

void Pause(Duration duration) { std::this_thread::sleep_for(duration); }

TimePoint Now() {
  timespec now{};
  GEMEL_CHECK_EQ(clock_gettime(CLOCK_MONOTONIC, &now), 0);
  return TimePoint(std::chrono::seconds(now.tv_sec) + Duration(now.tv_nsec));
}

}  // namespace gemel::cli
