// SPDX-License-Identifier: Apache-2.0
#include "server/keeper/systemd_store.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "server/keeper/keeper_messages.h"
#include "transport/outcome.h"

namespace gemel {
namespace {

constexpr std::string_view kProcessName = "gemel-server";
constexpr std::array<std::pair<KeptKind, std::string_view>, 3> kPrefixes = {
    {{KeptKind::kDirectory, "gemel-directory-"},
     {KeptKind::kSlab, "gemel-slab-"},
     {KeptKind::kClient, "gemel-client-"}}};

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string NameOf(const KeptName& name) {
  for (const auto& [kind, prefix] : kPrefixes) {
    if (kind == name.kind) {
      return fmt::format("{}{}", prefix, name.number);
    }
  }
  GEMEL_CHECK(false) << static_cast<int>(name.kind);
  return "";
}

// False for a name that is not ours.
bool ReadName(std::string_view text, KeptName* name) {
  for (const auto& [kind, prefix] : kPrefixes) {
    if (!text.starts_with(prefix)) {
      continue;
    }
    const char* const end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data() + prefix.size(), end, name->number);
    name->kind = kind;
    return error == std::errc() && at == end;
  }
  return false;
}

}  // namespace

absl::StatusOr<SystemdStore::Passed> SystemdStore::FromEnvironment(uint64_t own_pid) {
  Passed passed;
  passed.notify_socket = Variable("NOTIFY_SOCKET");
  const bool ours = Variable("LISTEN_PID") == std::to_string(own_pid);
  std::string names = ours ? Variable("LISTEN_FDNAMES") : "";
  const uint64_t count = ours ? std::strtoull(Variable("LISTEN_FDS").c_str(), nullptr, 10) : 0;
  for (const char* name : {"NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) {
    unsetenv(name);
  }
  if (count > kKeptItemsMax) {
    return error::InvalidArgument("LISTEN_FDS is {}: at most {} descriptors are taken", count,
                                  kKeptItemsMax);
  }
  while (passed.names.size() < count) {
    const size_t end = std::min(names.find(':'), names.size());
    passed.names.push_back(names.substr(0, end));
    names.erase(0, end + 1);
  }
  return passed;
}

absl::StatusOr<std::unique_ptr<SystemdStore>> SystemdStore::Create(Loop* loop, Host* host,
                                                                   const Passed& passed) {
  GEMEL_CHECK(loop != nullptr && host != nullptr);
  const std::string& path = passed.notify_socket;
  const bool absolute = path.starts_with('/') || path.starts_with('@');
  if (!absolute || path.size() >= sizeof(sockaddr_un::sun_path)) {
    return error::FailedPrecondition(
        "--keeper systemd: NOTIFY_SOCKET is '{}'; start this server as a unit with Type=notify and "
        "FileDescriptorStoreMax=, or give --keeper unix://PATH of a gemel-keeper",
        path);
  }
  std::unique_ptr<SystemdStore> store(new SystemdStore(loop, host));
  store->address_ = path;
  if (path.starts_with('@')) {
    store->address_[0] = '\0';
  }
  store->socket_ = Descriptor(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!store->socket_.valid()) {
    return StatusOfErrno(errno, "making a socket to the service manager");
  }
  for (size_t i = 0; i < passed.names.size(); ++i) {
    const int fd = passed.first + static_cast<int>(i);
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
      return StatusOfErrno(errno, fmt::format("descriptor {} of LISTEN_FDS", fd));
    }
    auto handle = std::make_shared<DescriptorHandle>(Descriptor(fd));
    Former former{{{}, std::move(handle)}, passed.names[i] == kProcessName};
    if (former.is_process || ReadName(passed.names[i], &former.item.name)) {
      store->former_.push_back(std::move(former));
    }
  }
  return store;
}

absl::Status SystemdStore::Send(const std::string& text,
                                const std::shared_ptr<SharedHandle>& handle) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, address_.data(), address_.size());
  iovec piece{const_cast<char*>(text.data()), text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_name = &address;
  message.msg_namelen = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address_.size());
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  if (handle != nullptr) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = handle->descriptor();
    std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
  }
  // It waits for room in the manager's queue, not for the manager.
  const ssize_t sent = sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(text.size())) {
    return Annotate(StatusOfErrno(errno, "telling the service manager"), Where());
  }
  return absl::OkStatus();
}

Task<absl::StatusOr<std::vector<KeptItem>>> SystemdStore::Take(Taker taker) {
  GEMEL_CHECK(taker.process != nullptr);
  std::map<KeptName, std::shared_ptr<SharedHandle>> items;
  for (const Former& former : former_) {
    if (!former.is_process) {
      items[former.item.name] = former.item.handle;
      continue;
    }
    GEMEL_CO_ASSIGN_OR_RETURN(const uint64_t pid, host_->LivingPid(former.item.handle));
    if (pid != 0) {
      co_return error::FailedPrecondition(
          "process {} has this memory and is not dead, stopped or hung as it may be: end it (kill "
          "-9 {}), then start {} again",
          pid, pid, taker.server_name);
    }
  }
  former_.clear();
  GEMEL_CO_RETURN_IF_ERROR(Send(fmt::format("FDSTOREREMOVE=1\nFDNAME={}", kProcessName), nullptr));
  GEMEL_CO_RETURN_IF_ERROR(
      Send(fmt::format("FDSTORE=1\nFDPOLL=0\nFDNAME={}", kProcessName), taker.process));
  std::vector<KeptItem> taken;
  for (const auto& [name, handle] : items) {
    taken.push_back({name, handle});
  }
  co_return taken;
}

// The manager takes what it has already for the same descriptor, and keeps it once.
Task<absl::Status> SystemdStore::Give(std::vector<KeptItem> items) {
  for (const KeptItem& item : items) {
    GEMEL_CO_RETURN_IF_ERROR(
        Send(fmt::format("FDSTORE=1\nFDPOLL=0\nFDNAME={}", NameOf(item.name)), item.handle));
  }
  co_return absl::OkStatus();
}

void SystemdStore::Forget(std::vector<KeptName> names) {
  for (const KeptName& name : names) {
    // One that is lost costs a descriptor there until the next life forgets it.
    Send(fmt::format("FDSTOREREMOVE=1\nFDNAME={}", NameOf(name)), nullptr).IgnoreError();
  }
}

Task<void> SystemdStore::Run(Gate* /*gate*/) { co_return; }

absl::Status SystemdStore::NotifyReady() { return Send("READY=1", nullptr); }

}  // namespace gemel
