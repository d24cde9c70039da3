// SPDX-License-Identifier: Apache-2.0
#include "server/clients.h"

#include <algorithm>
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
  ClientSession::Owner owner;
  owner.admit = [this](uint64_t client, uint64_t pid, std::shared_ptr<SharedHandle> process) {
    return Admit(client, pid, std::move(process));
  };
  owner.reclaim = [this](uint64_t client, const std::vector<uint64_t>& holders) {
    Reclaim(client, holders);
  };
  owner.closed = [this](uint64_t client) { SessionClosed(client); };
  session->Start(std::move(connection), std::move(owner));
}

Task<absl::StatusOr<HolderKey>> Clients::Admit(uint64_t client, uint64_t pid,
                                               std::shared_ptr<SharedHandle> process) {
  GEMEL_CO_ASSIGN_OR_RETURN(const uint64_t living, seams_.host->LivingPid(process));
  pid = living == 0 ? pid : living;  // what it says of itself is a label only
  GEMEL_CO_RETURN_IF_ERROR(Watch(client, pid, process));
  const HolderKey holder = parts_.pool->AddHolder(pid);
  clients_.at(client).holder = holder;
  co_await parts_.recovery->GiveClient(holder, std::move(process));
  const auto found = clients_.find(client);
  if (found == clients_.end() || found->second.session == nullptr) {
    co_return error::Cancelled("client process {} left before its hello was answered", pid);
  }
  co_return holder;
}

absl::Status Clients::Watch(uint64_t client, uint64_t pid, std::shared_ptr<SharedHandle> process) {
  const auto found = clients_.find(client);
  if (found == clients_.end()) {
    return error::Cancelled("client process {} left before its hello was answered", pid);
  }
  Client& watched = found->second;
  GEMEL_CHECK(watched.holder == kServerHolder && watched.watch == nullptr);
  // The death may be told while WatchExit() runs: it is handled from the loop's queue.
  GEMEL_ASSIGN_OR_RETURN(watched.watch, seams_.host->WatchExit(process, [this, client, pid] {
    seams_.loop->Post([this, client, pid] { ProcessDied(client, pid); });
  }));
  watched.process = std::move(process);
  return absl::OkStatus();
}

void Clients::Inherit(const std::map<HolderKey, std::shared_ptr<SharedHandle>>& former) {
  for (const auto& [holder, process] : former) {
    GEMEL_CHECK(parts_.pool->holds(holder)) << holder;
    const uint64_t id = next_client_++;
    clients_[id].former = true;
    const absl::StatusOr<uint64_t> living = seams_.host->LivingPid(process);
    const absl::Status watched =
        living.ok() ? Watch(id, *living, process) : absl::Status(living.status());
    clients_[id].holder = holder;
    if (!watched.ok()) {
      // Nobody can prove its death: it keeps its slabs for the life of this server.
      seams_.events->Emit(Severity::kError, "former_client_unknown",
                          fmt::format("holder {}: {}", holder, ToText(watched)));
    }
  }
  CheckFormer();
}

bool Clients::IsSameProcess(const Client& a, const Client& b) const {
  if (a.process == nullptr || b.process == nullptr) {
    return false;
  }
  const absl::StatusOr<uint64_t> one = seams_.host->LivingPid(a.process);
  const absl::StatusOr<uint64_t> other = seams_.host->LivingPid(b.process);
  return one.ok() && other.ok() && *one == *other && *one != 0;
}

void Clients::Reclaim(uint64_t client, const std::vector<uint64_t>& holders) {
  const auto own = clients_.find(client);
  if (own == clients_.end()) {
    return;  // its process died while this waited for its turn
  }
  GEMEL_CHECK(own->second.holder != kServerHolder) << client;
  for (auto at = clients_.begin(); at != clients_.end();) {
    const Client& ended = at->second;
    const bool named = std::find(holders.begin(), holders.end(), ended.holder) != holders.end();
    if (!named || at == own || ended.session != nullptr || !IsSameProcess(ended, own->second)) {
      ++at;
      continue;
    }
    parts_.pool->MoveSlabs(ended.holder, own->second.holder);
    own->second.former = own->second.former || ended.former;
    at = clients_.erase(at);
  }
}

// Of a slab whose holder nobody knows every client of a former life may be the one.
void Clients::CheckFormer() {
  const bool any = std::any_of(clients_.begin(), clients_.end(),
                               [](const auto& one) { return one.second.former; });
  if (!any) {
    parts_.pool->FormerClientsDied();
  }
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
  if (dead.former) {
    CheckFormer();
  }
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
