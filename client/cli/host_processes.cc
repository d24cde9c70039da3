// SPDX-License-Identifier: Apache-2.0
#include "client/cli/host_processes.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
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
constexpr int kSignalled = 128;  // plus the signal's number, as shells say it
constexpr Duration kPollEvery = 10ms;
constexpr size_t kStartTimeField =
    19;  // counted from the field after the command's closing bracket

constexpr size_t kCapturedBytesMax = 65'536;

volatile pid_t g_foreground = 0;  // for the handler that passes signals on

void PassOn(int signal_number, siginfo_t* info, void* /*context*/) {
  const bool of_terminal = info != nullptr && info->si_code == SI_KERNEL;
  if (g_foreground > 0 && !of_terminal) {
    kill(g_foreground, signal_number);
  }
}

// While it lives, SIGINT and SIGTERM go to the command in the foreground.
class SignalsPassedOn {
 public:
  SignalsPassedOn() {
    struct sigaction action{};
    action.sa_sigaction = PassOn;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    GEMEL_CHECK_EQ(sigaction(SIGINT, &action, &interrupt_), 0);
    GEMEL_CHECK_EQ(sigaction(SIGTERM, &action, &terminate_), 0);
  }

  ~SignalsPassedOn() {
    GEMEL_CHECK_EQ(sigaction(SIGINT, &interrupt_, nullptr), 0);
    GEMEL_CHECK_EQ(sigaction(SIGTERM, &terminate_, nullptr), 0);
  }

  SignalsPassedOn(const SignalsPassedOn&) = delete;
  SignalsPassedOn& operator=(const SignalsPassedOn&) = delete;

 private:
  struct sigaction interrupt_{};

  struct sigaction terminate_{};
};

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

void TakeWhatCame(int fd, std::string* text) {
  std::array<char, 4096> part{};
  ssize_t count = 0;
  while ((count = read(fd, part.data(), part.size())) > 0) {
    if (text->size() < kCapturedBytesMax) {
      text->append(part.data(), static_cast<size_t>(count));
    }
  }
}

absl::Status WriteError(const std::string& path, int code) {
  if (code == ENOSPC || code == EDQUOT) {
    return error::ResourceExhausted(
        "the disk is full: {} cannot be written; free some space (`df -h {}`)", path,
        std::filesystem::path(path).parent_path().string());
  }
  if (code == EACCES || code == EPERM || code == EROFS) {
    return error::PermissionDenied(
        "{} cannot be written by user {} ({}); choose a --dir of your own", path, geteuid(),
        std::strerror(code));
  }
  return error::Unavailable("{} cannot be written: {}; choose another --dir", path,
                            code == 0 ? "unknown reason" : std::strerror(code));
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
    return WriteError(log_path, errno);
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

void Kill(const ProcessName& process) {
  if (IsAlive(process)) {
    kill(process.pid, SIGKILL);
  }
}

std::string FindProgram(const std::string& program) {
  if (program.find('/') != std::string::npos) {
    return access(program.c_str(), X_OK) == 0 ? program : "";
  }
  std::istringstream folders(Environment("PATH"));
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string path = (folder.empty() ? "." : folder) + "/" + program;
    std::error_code error;
    if (access(path.c_str(), X_OK) == 0 && !std::filesystem::is_directory(path, error)) {
      return path;
    }
  }
  return "";
}

absl::StatusOr<std::string> RunCaptured(const std::vector<std::string>& command, Duration within) {
  GEMEL_CHECK(!command.empty());
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) {
    return error::ResourceExhausted("no pipe to {}: {}", command[0], std::strerror(errno));
  }
  const pid_t pid = fork();
  if (pid == 0) {
    const int null_fd = open("/dev/null", O_RDWR);
    dup2(null_fd, STDIN_FILENO);
    dup2(ends[1], STDOUT_FILENO);
    dup2(null_fd, STDERR_FILENO);
    std::vector<char*> argv = Argv(command);
    execvp(argv[0], argv.data());
    _exit(kExecFailed);
  }
  close(ends[1]);
  std::string text;
  int status = 0;
  const TimePoint give_up = Add(Now(), within);
  bool late = false;
  while (pid > 0 && waitpid(pid, &status, WNOHANG) == 0) {
    TakeWhatCame(ends[0], &text);
    late = Now() >= give_up;
    if (late) {
      kill(pid, SIGKILL);
    }
    Pause(kPollEvery);
  }
  TakeWhatCame(ends[0], &text);
  close(ends[0]);
  if (late) {
    return error::DeadlineExceeded("{} did not end in time", command[0]);
  }
  if (pid < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return error::Unavailable("{} cannot be run or ended badly (status {})", command[0], status);
  }
  return text;
}

absl::StatusOr<int> RunForeground(
    const std::vector<std::string>& command,
    const std::vector<std::pair<std::string, std::string>>& environment) {
  GEMEL_CHECK(!command.empty());
  // Blocked until the handler knows the child: a signal in between would be lost or end us alone.
  sigset_t passed;
  sigset_t before;
  sigemptyset(&passed);
  sigaddset(&passed, SIGINT);
  sigaddset(&passed, SIGTERM);
  GEMEL_CHECK_EQ(sigprocmask(SIG_BLOCK, &passed, &before), 0);
  g_foreground = fork();
  if (g_foreground == 0) {
    sigprocmask(SIG_SETMASK, &before, nullptr);
    for (const auto& [name, value] : environment) {
      setenv(name.c_str(), value.c_str(), 1);
    }
    std::vector<char*> argv = Argv(command);
    execvp(argv[0], argv.data());
    dprintf(STDERR_FILENO, "gemel run: cannot run %s: %s\n", argv[0], std::strerror(errno));
    _exit(kExecFailed);
  }
  const SignalsPassedOn passing;
  GEMEL_CHECK_EQ(sigprocmask(SIG_SETMASK, &before, nullptr), 0);
  if (g_foreground < 0) {
    return error::ResourceExhausted("cannot start {}: {}", command[0], std::strerror(errno));
  }
  int status = 0;
  while (waitpid(g_foreground, &status, 0) < 0 && errno == EINTR) {
  }
  g_foreground = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : kSignalled + WTERMSIG(status);
}

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

uid_t OwnUser() { return geteuid(); }

absl::Status CheckOwner(const std::string& path) {
  struct stat found{};
  if (stat(path.c_str(), &found) != 0 || geteuid() == 0 || found.st_uid == geteuid()) {
    return absl::OkStatus();
  }
  return error::PermissionDenied(
      "{} belongs to user {}, this is user {}; run as that user, or choose a --dir of your own",
      path, found.st_uid, geteuid());
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
  errno = 0;
  std::ifstream file(path);
  if (!file) {
    if (errno == EACCES || errno == EPERM) {
      return error::PermissionDenied(
          "{} is not readable for user {}; ask its owner, or choose a --dir "
          "of your own",
          path, geteuid());
    }
    return error::NotFound("{} is not there", path);
  }
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

absl::Status WriteTextFile(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".new";
  {
    errno = 0;
    std::ofstream file(temporary, std::ios::trunc);
    file << text;
    file.flush();
    if (!file) {
      return WriteError(temporary, errno);
    }
  }
  return MoveAside(temporary, path);
}

absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    return WriteError(path, error.value());
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

void Pause(Duration duration) { std::this_thread::sleep_for(duration); }

TimePoint Now() {
  timespec now{};
  GEMEL_CHECK_EQ(clock_gettime(CLOCK_MONOTONIC, &now), 0);
  return TimePoint(std::chrono::seconds(now.tv_sec) + Duration(now.tv_nsec));
}

}  // namespace gemel::cli
