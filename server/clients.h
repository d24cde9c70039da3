// SPDX-License-Identifier: Apache-2.0
//
// Clients: the client processes of this host: their connections, and the watch on each process.
//
// Thread safety: one loop.
// Ownership: owns sessions and watches. CloseAll() before destruction, or a loop that was shut
// down. Invariants:
//   (1) a holder's slabs are given up only when its process is known dead; the end of a connection
//       ends its uploads and restores, no more;
//   (2) every connection is a holder of its own: two connections of one process share no slab. One
//       that has ended gives its slabs to a later one of the same process, when that asks for them;
//   (3) clients of a former life are watched like those of this one.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

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

  // Holders of a former life of this server's memory: those whose process is dead give their slabs
  // up now, the others when it is. REQUIRES: the pool has inherited them.
  void Inherit(const std::map<HolderKey, std::shared_ptr<SharedHandle>>& former);

  size_t size() const { return clients_.size(); }

 private:
  struct Client {
    std::shared_ptr<ClientSession> session;  // null when closed
    HolderKey holder = kServerHolder;        // none before the hello
    bool former = false;                     // its process was a client of a former life
    std::shared_ptr<SharedHandle> process;
    std::unique_ptr<ExitWatch> watch;
  };

  Task<absl::StatusOr<HolderKey>> Admit(uint64_t client, uint64_t pid,
                                        std::shared_ptr<SharedHandle> process);
  absl::Status Watch(uint64_t client, uint64_t pid, std::shared_ptr<SharedHandle> process);
  void Reclaim(uint64_t client, const std::vector<uint64_t>& holders);
  bool IsSameProcess(const Client& a, const Client& b) const;
  void CheckFormer();
  void SessionClosed(uint64_t client);
  void ProcessDied(uint64_t client, uint64_t pid);

  const ServerSeams seams_;
  const ClientParts parts_;
  uint64_t next_client_ = 1;
  std::map<uint64_t, Client> clients_;
};

}  // namespace gemel
