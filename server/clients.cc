// SPDX-License-Identifier: Apache-2.0
#include "server/clients.h"

#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel {

Clients::Clients(const ServerSeams& seams, ClientParts parts)
    : seams_(seams), parts_(std::move(parts)) {}

Clients::~Clients() = default;

void Clients::Accept(std::unique_ptr<Connection> connection) {
  if (clients_.size() >= kClientsMax) {
    seams_.events->Emit(
        Severity::kWarning, "client_refused",
        fmt::format("{} clients are connected, the most there may be", clients_.size()));
    return;
  }
  const uint64_t id = next_client_++;
  auto session = std::make_shared<ClientSession>(seams_, parts_, id);
  clients_[id].session = session;
  session->Start(
      std::move(connection),
      [this](uint64_t client, uint64_t pid, const std::shared_ptr<SharedHandle>& process) {
        return Admit(client, pid, process);
      },
      [this](uint64_t client) { SessionClosed(client); });
}

absl::StatusOr<HolderKey> Clients::Admit(uint64_t client, uint64_t pid,
                                         const std::shared_ptr<SharedHandle>& process) {
  const auto found = clients_.find(client);
  if (found == clients_.end()) {
    return error::Cancelled("client process {} left before its hello was answered", pid);
  }
  Client& admitted = found->second;
  GEMEL_CHECK(admitted.holder == kServerHolder && admitted.watch == nullptr);
  // The death may be told while WatchExit() runs: it is handled from the loop's queue.
  GEMEL_ASSIGN_OR_RETURN(admitted.watch, seams_.host->WatchExit(process, [this, client, pid] {
    seams_.loop->Post([this, client, pid] { ProcessDied(client, pid); });
  }));
  admitted.holder = parts_.pool->AddHolder(pid);
  return admitted.holder;
}

void Clients::SessionClosed(uint64_t client) {
  const auto found = clients_.find(client);
  if (found == clients_.end() || found->second.session == nullptr) {
    return;
  }
  std::shared_ptr<ClientSession> session = std::move(found->second.session);
  session->EndWork("the connection of a rank's process ended");
  if (found->second.holder == kServerHolder) {
    clients_.erase(found);
  }
  // The session is what calls: it goes when the loop comes round.
  seams_.loop->Post([gone = std::move(session)] {});
}

void Clients::ProcessDied(uint64_t client, uint64_t pid) {
  const auto found = clients_.find(client);
  if (found == clients_.end()) {
    return;
  }
  const Client dead = std::move(found->second);
  clients_.erase(found);
  GEMEL_CHECK_NE(dead.holder, kServerHolder) << "process " << pid << " was never admitted";
  if (dead.session != nullptr) {
    dead.session->Close(error::Unavailable("process {} is dead", pid));
    dead.session->EndWork(fmt::format("process {} of a rank died", pid));
  }
  parts_.pool->HolderDied(dead.holder);
  seams_.events->Emit(Severity::kInfo, "client_died", fmt::format("client process {} died", pid));
}

void Clients::CloseAll(const absl::Status& why) {
  for (auto& [id, client] : clients_) {
    if (client.session != nullptr) {
      client.session->Close(why);
      client.session->EndWork(std::string(MessageOf(why)));
    }
  }
  clients_.clear();
}

}  // namespace gemel
