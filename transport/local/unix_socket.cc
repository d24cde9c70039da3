// SPDX-License-Identifier: Apache-2.0
#include "transport/local/unix_socket.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "transport/descriptor.h"
#include "transport/outcome.h"
#include "transport/socket_listener.h"
#include "transport/stream_connection.h"
#include "transport/stream_socket.h"

namespace gemel {
namespace {

constexpr int kBacklog = 128;
constexpr Duration kRetryWhenBacklogFull = 5ms;
constexpr mode_t kOwnerOnly = 0600;

std::string AddressOf(std::string_view path) { return fmt::format("unix://{}", path); }

absl::StatusOr<sockaddr_un> UnixAddress(std::string_view path) {
  if (path.empty() || path.size() > kUnixPathBytesMax || path.find('\0') != path.npos) {
    return error::InvalidArgument(
        "the socket path '{}' has {} bytes; it must have 1 to {}: choose a shorter directory", path,
        path.size(), kUnixPathBytesMax);
  }
  sockaddr_un address{};
  static_assert(sizeof(address.sun_path) == kUnixPathBytesMax + 1);
  address.sun_family = AF_UNIX;
  std::copy(path.begin(), path.end(), address.sun_path);
  return address;
}

absl::StatusOr<Descriptor> UnixSocket(std::string_view path) {
  Descriptor made(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!made.valid()) {
    return StatusOfErrno(errno, AddressOf(path));
  }
  return made;
}

// 0 or errno.
int ConnectTo(int fd, const sockaddr_un& address) {
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  return connect(fd, generic, sizeof(address)) == 0 ? 0 : errno;
}

absl::StatusOr<ucred> PeerOf(int fd, std::string_view address) {
  ucred peer{};
  socklen_t bytes = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) {
    return StatusOfErrno(errno, fmt::format("asking who is at {}", address));
  }
  return peer;
}

absl::StatusOr<std::unique_ptr<Connection>> AdmitUnix(EpollLoop* loop, Descriptor socket,
                                                      const std::string& path) {
  const std::string address = AddressOf(path);
  GEMEL_ASSIGN_OR_RETURN(const ucred peer, PeerOf(socket.get(), address));
  GEMEL_RETURN_IF_ERROR(CheckPeerUser(peer.uid, geteuid(), address));
  return std::make_unique<StreamConnection>(
      loop, std::make_unique<SocketStream>(loop, std::move(socket)),
      fmt::format("{} (pid {})", address, peer.pid), StreamConnection::Carries::kBytesAndHandles);
}

// Held while a path is taken, so that two servers never both replace one stale socket. The lock
// file is gone afterwards; a lock on a file that was removed meanwhile does not count.
class PathLock {
 public:
  static absl::StatusOr<PathLock> Take(const std::string& path) {
    std::string name = path + ".lock";
    Descriptor file(open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, kOwnerOnly));
    if (!file.valid()) {
      return StatusOfErrno(errno, fmt::format("making {}", name));
    }
    struct stat held{};
    struct stat named{};
    if (flock(file.get(), LOCK_EX | LOCK_NB) != 0 || fstat(file.get(), &held) != 0 ||
        stat(name.c_str(), &named) != 0 || held.st_ino != named.st_ino) {
      return error::AlreadyExists("{} is being taken by another process right now",
                                  AddressOf(path));
    }
    return PathLock(std::move(file), std::move(name));
  }

  PathLock(PathLock&& other) noexcept
      : file_(std::move(other.file_)), name_(std::exchange(other.name_, {})) {}

  ~PathLock() {
    if (!name_.empty()) {
      unlink(name_.c_str());
    }
  }

 private:
  PathLock(Descriptor file, std::string name) : file_(std::move(file)), name_(std::move(name)) {}

  Descriptor file_;
  std::string name_;
};

// AlreadyExists when the path is in use; OK when it is free now, a stale socket removed.
absl::Status FreeThePath(const std::string& path, const sockaddr_un& address) {
  struct stat found{};
  if (lstat(path.c_str(), &found) != 0) {
    return errno == ENOENT ? absl::OkStatus() : StatusOfErrno(errno, AddressOf(path));
  }
  if (!S_ISSOCK(found.st_mode)) {
    return error::AlreadyExists(
        "{}: there is a file that is not a socket; remove it or choose another path",
        AddressOf(path));
  }
  GEMEL_ASSIGN_OR_RETURN(Descriptor probe, UnixSocket(path));
  const int refused = ConnectTo(probe.get(), address);
  if (refused == ECONNREFUSED) {
    return unlink(path.c_str()) == 0 ? absl::OkStatus() : StatusOfErrno(errno, AddressOf(path));
  }
  const absl::StatusOr<ucred> peer = PeerOf(probe.get(), AddressOf(path));
  const bool known = refused == 0 && peer.ok();
  return error::AlreadyExists(
      "{}: a live server (pid {}) answers there; stop it or choose another path", AddressOf(path),
      known ? fmt::to_string(peer->pid) : "unknown");
}

absl::StatusOr<Descriptor> BindAndListen(const std::string& path) {
  GEMEL_ASSIGN_OR_RETURN(const sockaddr_un address, UnixAddress(path));
  GEMEL_ASSIGN_OR_RETURN(const PathLock lock, PathLock::Take(path));
  GEMEL_RETURN_IF_ERROR(FreeThePath(path, address));
  GEMEL_ASSIGN_OR_RETURN(Descriptor listening, UnixSocket(path));
  // On Linux the mode of the unbound socket becomes that of its file: never open to others, not
  // even for a moment.
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  if (fchmod(listening.get(), kOwnerOnly) != 0 ||
      bind(listening.get(), generic, sizeof(address)) != 0 ||
      listen(listening.get(), kBacklog) != 0) {
    return StatusOfErrno(errno, fmt::format("listening on {}", AddressOf(path)));
  }
  return listening;
}

std::function<void()> RemoverOf(const std::string& path) {
  struct stat own{};
  if (lstat(path.c_str(), &own) != 0) {
    return nullptr;
  }
  return [path, inode = own.st_ino, device = own.st_dev] {
    struct stat now{};
    if (lstat(path.c_str(), &now) == 0 && now.st_ino == inode && now.st_dev == device) {
      unlink(path.c_str());
    }
  };
}

// Why nobody answers: what lies at the path says more than the error number.
absl::Status NobodyThere(int error, const std::string& path) {
  const std::string address = AddressOf(path);
  struct stat found{};
  const bool there = lstat(path.c_str(), &found) == 0;
  if (error == ENOENT || error == ENOTDIR) {
    return error::Unavailable(
        "{}: no socket is there, so no server was started there; `gemel up` starts one and prints "
        "its address",
        address);
  }
  if (error == ECONNREFUSED && there && !S_ISSOCK(found.st_mode)) {
    return error::Unavailable(
        "{}: a {} is there, no socket; correct the address, `gemel up` prints it", address,
        S_ISDIR(found.st_mode) ? "folder" : "file");
  }
  if (error == ECONNREFUSED) {
    return error::Unavailable(
        "{}: nobody listens there, its server has ended; `gemel up` starts it again", address);
  }
  if (error == EACCES || error == EPERM) {
    const std::string whose = there ? fmt::format("it belongs to user {}", found.st_uid)
                                    : std::string("its folder is closed to others");
    return error::PermissionDenied(
        "{}: this process runs as user {} and {}; run as that user, or start a server of your own "
        "(`gemel up --dir DIR`)",
        address, geteuid(), whose);
  }
  return StatusOfErrno(error, fmt::format("connecting to {}", address));
}

}  // namespace

absl::Status CheckPeerUser(uid_t peer, uid_t own, std::string_view address) {
  if (peer == own || peer == 0) {
    return absl::OkStatus();
  }
  return error::PermissionDenied(
      "{}: the other side runs as user {}, this process as user {}; run both as the same user",
      address, peer, own);
}

Task<absl::StatusOr<std::unique_ptr<Connection>>> ConnectUnix(EpollLoop* loop, std::string path,
                                                              TimePoint deadline) {
  GEMEL_CO_ASSIGN_OR_RETURN(const sockaddr_un address, UnixAddress(path));
  GEMEL_CO_ASSIGN_OR_RETURN(Descriptor connecting, UnixSocket(path));
  int error = ConnectTo(connecting.get(), address);
  // EAGAIN of a unix socket: the backlog is full, and nothing tells when it no longer is.
  while (error == EAGAIN && loop->Now() < deadline) {
    co_await loop->Sleep(kRetryWhenBacklogFull);
    error = ConnectTo(connecting.get(), address);
  }
  if (error == EAGAIN) {
    co_return error::DeadlineExceeded("the server on {} did not accept in time: is it stopped?",
                                      AddressOf(path));
  }
  if (error != 0) {
    co_return NobodyThere(error, path);
  }
  co_return AdmitUnix(loop, std::move(connecting), path);
}

absl::StatusOr<std::unique_ptr<Listener>> ListenUnix(EpollLoop* loop, EventSink* events,
                                                     const std::string& path,
                                                     Net::AcceptCallback accept) {
  GEMEL_ASSIGN_OR_RETURN(Descriptor listening, BindAndListen(path));
  SocketListener::Options options;
  options.address = AddressOf(path);
  options.taken = [loop, path, accept = std::move(accept)](Descriptor socket) -> absl::Status {
    GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<Connection> admitted,
                           AdmitUnix(loop, std::move(socket), path));
    accept(std::move(admitted));
    return absl::OkStatus();
  };
  options.released = RemoverOf(path);
  return std::make_unique<SocketListener>(loop, events, std::move(listening), std::move(options));
}

}  // namespace gemel
