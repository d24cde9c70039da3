// SPDX-License-Identifier: Apache-2.0
//
// SystemdStore: the descriptor store of the service manager as Keeper (sd_notify(3),
// sd_listen_fds(3); man pages of systemd). The unit needs FileDescriptorStoreMax=,
// NotifyAccess=main and Restart=; the manager starts the next life only when it has seen the last
// one end.
//
// Each item is sent as one datagram to $NOTIFY_SOCKET (FDSTORE=1, FDNAME=gemel-slab-3, FDPOLL=0)
// and comes back as a descriptor from 3 on, named in $LISTEN_FDNAMES. The server's own process is
// stored too: it proves the death of a former life, whoever ended it.
//
// Thread safety: one loop; FromEnvironment() before there are other threads.
// Ownership: owns its socket and the descriptors that were passed.
// Errors: FailedPrecondition when this process was not started by a service manager, or a former
// life is not dead; Give() gives what the socket says.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "server/keeper/keeper.h"
#include "transport/descriptor.h"

namespace gemel {

class SystemdStore final : public Keeper {
 public:
  struct Passed {
    std::string notify_socket;       // $NOTIFY_SOCKET: a path, or "@" and an abstract name
    std::vector<std::string> names;  // of the descriptors from `first` on
    int first = 3;                   // SD_LISTEN_FDS_START
  };

  // What the service manager passed to this process; its variables are removed, so that no child
  // takes them for its own.
  static absl::StatusOr<Passed> FromEnvironment(uint64_t own_pid);
  static absl::StatusOr<std::unique_ptr<SystemdStore>> Create(Loop* loop, Host* host,
                                                              const Passed& passed);

  std::string Where() const override { return "the service manager's descriptor store"; }

  Task<absl::StatusOr<std::vector<KeptItem>>> Take(Taker taker) override;
  Task<absl::Status> Give(std::vector<KeptItem> items) override;
  void Forget(std::vector<KeptName> names) override;
  Task<void> Run(Gate* gate) override;

  void Wake() override {}

  // READY=1, for Type=notify.
  absl::Status NotifyReady();

 private:
  struct Former {
    KeptItem item;
    bool is_process = false;  // of a former life
  };

  SystemdStore(Loop* loop, Host* host) : loop_(loop), host_(host) {}

  absl::Status Send(const std::string& text, const std::shared_ptr<SharedHandle>& handle);

  Loop* const loop_;
  Host* const host_;
  Descriptor socket_;
  std::string address_;  // of sockaddr_un, from sun_path on
  std::vector<Former> former_;
};

}  // namespace gemel
