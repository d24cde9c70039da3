// SPDX-License-Identifier: Apache-2.0
//
// Clients: the client processes of this host: their connections, and the watch on each process.
//
// Thread safety: one loop.
// Ownership: owns sessions and watches. CloseAll() before destruction, or a loop that was shut
// down. Invariants:
//   (1) a holder's slabs are given up only when its process is known dead; the end of a connection
//       ends its uploads and restores, no more;
//   (2) every connection is a holder of its own: two connections of one process share no slab.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "absl/status/statusor.h"

#include "server/client_session.h"

namespace gemel {

class Clients {
 public:
  Clients(const ServerSeams& seams, ClientParts parts);
  ~Clients();

  // A connection that the local listener accepted.
  void Accept(std::unique_ptr<Connection> connection);
  void CloseAll(const absl::Status& why);

  size_t size() const { return clients_.size(); }

 private:
  struct Client {
    std::shared_ptr<ClientSession> session;  // null when closed
    HolderKey holder = kServerHolder;        // none before the hello
    std::unique_ptr<ExitWatch> watch;
  };

  absl::StatusOr<HolderKey> Admit(uint64_t client, uint64_t pid,
                                  const std::shared_ptr<SharedHandle>& process);
  void SessionClosed(uint64_t client);
  void ProcessDied(uint64_t client, uint64_t pid);

  const ServerSeams seams_;
  const ClientParts parts_;
  uint64_t next_client_ = 1;
  std::map<uint64_t, Client> clients_;
};

}  // namespace gemel
