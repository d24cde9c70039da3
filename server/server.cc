// SPDX-License-Identifier: Apache-2.0
#include "server/server.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "server/keeper/keeper.h"
#include "server/metric_names.h"
#include "transport/addresses.h"

namespace gemel {

Server::Server(const ServerSeams& seams, ServerOptions options, Fatal fatal)
    : seams_(seams),
      options_(std::move(options)),
      fatal_(std::move(fatal)),
      random_(seams.process->Entropy64()),
      gate_(seams.loop) {
  GEMEL_CHECK(seams.loop != nullptr && seams.net != nullptr && seams.host != nullptr);
  GEMEL_CHECK(seams.disk != nullptr && seams.placement != nullptr);
  GEMEL_CHECK(seams.events != nullptr && seams.metrics != nullptr);
  RegisterServerMetrics(seams.metrics);
}

Server::~Server() = default;

ServerId Server::id() const { return control_->server(); }

Incarnation Server::incarnation() const {
  return control_ == nullptr ? Incarnation() : control_->incarnation();
}

std::string Server::data_address() const {
  GEMEL_CHECK(!data_listeners_.empty());
  std::string addresses;
  for (const std::unique_ptr<Listener>& listener : data_listeners_) {
    addresses += (addresses.empty() ? "" : ",") + listener->address();
  }
  return addresses;
}

Task<absl::Status> Server::Start() {
  GEMEL_CHECK(identity_ == nullptr) << "started twice";
  GEMEL_CO_RETURN_IF_ERROR(co_await Load());
  MakeParts();
  Connect();
  clients_->Inherit(recovery_->former().clients);
  co_await recovery_->Keep(pool_);
  co_await recovery_->Verify(objects_.get(), identity_.get());
  GEMEL_CO_RETURN_IF_ERROR(pool_->WarmFirst());
  GEMEL_CO_RETURN_IF_ERROR(ListenForPeers());
  co_await tier_->Load(&gate_);
  GEMEL_CO_RETURN_IF_ERROR(co_await membership_->Join(&gate_));
  StartTasks();
  co_return ListenForClients();
}

Task<absl::Status> Server::Load() {
  const Random identity_random = random_.Split("identity");
  GEMEL_CO_ASSIGN_OR_RETURN(identity_, co_await Identity::Load(seams_.disk, identity_random));
  Random incarnation_random = random_.Split("incarnation");
  const Incarnation incarnation = Incarnation::Draw(&incarnation_random);
  SlabPool::Options slabs;
  slabs.server = identity_->server();
  slabs.incarnation = incarnation;
  slabs.slab_bytes = options_.slab_bytes;
  slabs.memory_bytes = options_.memory_bytes;
  recovery_ = std::make_unique<Recovery>(seams_);
  Keeper::Taker taker{options_.name, identity_->server(), identity_->cluster(), incarnation,
                      nullptr};
  GEMEL_CO_RETURN_IF_ERROR(co_await recovery_->Take(std::move(taker), options_.slab_bytes));
  slabs.life = recovery_->life();
  GEMEL_CO_ASSIGN_OR_RETURN(pool_, SlabPool::Create(seams_, slabs));
  GEMEL_CO_RETURN_IF_ERROR(pool_->Inherit(recovery_->former()));
  control_ = std::make_unique<Control>(seams_, identity_->server(), incarnation,
                                       options_.control_protocol);
  control_->SetCluster(identity_->cluster());
  control_->SetLeader(identity_->generation(), identity_->term());
  co_return absl::OkStatus();
}

void Server::MakeParts() {
  objects_ = std::make_unique<ObjectTable>(seams_, pool_);
  tier_ = std::make_unique<Tier>(seams_, control_.get(), options_.disk_patience);
  peers_ = std::make_unique<Peers>(seams_, control_.get(), options_.name);
  receipts_ = std::make_unique<Receipts>(seams_, control_.get(), objects_.get());
  uploads_ = std::make_unique<Uploads>(seams_, control_.get(), objects_.get(), peers_.get(),
                                       receipts_.get());
  uploads_->SetGate(&gate_);
  const size_t paths = std::max<size_t>(1, SplitAddresses(options_.data_address).size());
  admission_ = std::make_unique<Admission>(
      Buggify(BuggifySite::kCreditScarce) ? 1 : kIncomingPerPath * paths);
  Holder::Parts holder{control_.get(),  identity_.get(), objects_.get(),  peers_.get(),
                       receipts_.get(), tier_.get(),     admission_.get()};
  holder_ = std::make_unique<Holder>(seams_, holder);
  Fetches::Parts fetches{control_.get(),  objects_.get(), peers_.get(),
                         receipts_.get(), tier_.get(),    admission_.get()};
  fetches_ = std::make_unique<Fetches>(seams_, fetches, options_.repair_bytes_per_second);
  fetches_->SetGate(&gate_);
  restores_ = std::make_unique<Restores>(seams_, control_.get(), fetches_.get());
  restores_->SetGate(&gate_, random_.Split("reads"));
  stages_ = std::make_unique<Stages>(seams_, pool_.get(), objects_.get());
  Directives::Parts work{control_.get(), identity_.get(), objects_.get(), uploads_.get(),
                         holder_.get(),  fetches_.get(),  tier_.get()};
  directives_ = std::make_unique<Directives>(seams_, work);
  Membership::Parts members{control_.get(), identity_.get(), pool_.get(), objects_.get(),
                            peers_.get(),   receipts_.get(), tier_.get(), directives_.get()};
  membership_ = std::make_unique<Membership>(seams_, members);
  const Scrub::Parts scrubbed{objects_.get(), pool_.get(), tier_.get()};
  scrub_ = std::make_unique<Scrub>(seams_, scrubbed, options_.scrub);
  ClientParts clients{control_.get(), identity_.get(), pool_.get(),
                      objects_.get(), uploads_.get(),  restores_.get(),
                      stages_.get(),  recovery_.get(), options_.name};
  clients_ = std::make_unique<Clients>(seams_, std::move(clients));
}

// What one part tells another.
void Server::Connect() {
  const auto corrupt = [this](const std::shared_ptr<Object>& object, const absl::Status& why) {
    OnCorrupt(object, why);
  };
  holder_->OnCorrupt(corrupt);
  scrub_->OnCorrupt(corrupt);
  scrub_->SetBusy([this] { return uploads_->size() > 0 || holder_->grants() > 0; });
  restores_->OnCorrupt(corrupt);
  uploads_->OnCorrupt(corrupt);
  // The directive's result tells placement; joining again would lose it and those of the others.
  directives_->OnCorrupt([this](const std::shared_ptr<Object>& object, const absl::Status& why) {
    DropCorrupt(object, why);
  });
  holder_->SetMemberCheck(
      [this](const PeerHello& hello) { return membership_->CheckMember(hello); });
  receipts_->OnRetarget([this](const ShardId& shard, const std::vector<PeerMember>& holders) {
    uploads_->SetHolders(shard, holders);
  });
  receipts_->OnNotMember([this] {
    membership_->RequestRejoin("placement takes no receipts of this server: joining again");
  });
  directives_->OnRejoin([this](std::string why) { membership_->RequestRejoin(std::move(why)); });
  membership_->OnFatal(fatal_);
  tier_->OnChanged([this](std::string why) { membership_->RequestRejoin(std::move(why)); });
}

// The object is not served any more. False when it was dropped before.
bool Server::DropCorrupt(const std::shared_ptr<Object>& object, const absl::Status& why) {
  seams_.metrics->Counter("gemel_chunks_corrupt_total", "Chunks that failed their digest.").Add(1);
  seams_.events->Emit(Severity::kError, "chunk_corrupt", ToText(why));
  if (objects_->Find(object->shard()) != object) {
    return false;
  }
  objects_->DropObject(object);
  return true;
}

// Placement stops counting it: joining again replaces what it believes of this server.
void Server::OnCorrupt(const std::shared_ptr<Object>& object, const absl::Status& why) {
  if (DropCorrupt(object, why)) {
    membership_->RequestRejoin(
        fmt::format("{} is damaged in memory and was dropped", object->shard().ToString()));
  }
}

absl::Status Server::ListenForPeers() {
  const std::vector<std::string> addresses = SplitAddresses(options_.data_address);
  if (addresses.empty()) {
    return error::InvalidArgument("no data address to listen on: give one, as tcp://127.0.0.1:0");
  }
  for (const std::string& address : addresses) {
    GEMEL_ASSIGN_OR_RETURN(
        std::unique_ptr<Listener> listener,
        seams_.net->Listen(address, [this](std::unique_ptr<Connection> connection) {
          holder_->Accept(std::move(connection));
        }));
    data_listeners_.push_back(std::move(listener));
  }
  Membership::Self self;
  self.name = options_.name;
  self.domain = options_.domain;
  self.data_address = data_address();
  membership_->SetSelf(std::move(self));
  return absl::OkStatus();
}

absl::Status Server::ListenForClients() {
  GEMEL_ASSIGN_OR_RETURN(
      client_listener_,
      seams_.net->Listen(options_.client_address, [this](std::unique_ptr<Connection> connection) {
        clients_->Accept(std::move(connection));
      }));
  return absl::OkStatus();
}

void Server::StartTasks() {
  seams_.loop->Spawn(pool_->KeepWarm(&gate_));
  seams_.loop->Spawn(receipts_->Run(&gate_));
  seams_.loop->Spawn(membership_->Run(&gate_));
  seams_.loop->Spawn(membership_->FollowMap(&gate_));
  seams_.loop->Spawn(directives_->Run(&gate_));
  if (seams_.keeper != nullptr) {
    seams_.loop->Spawn(seams_.keeper->Run(&gate_));
  }
  seams_.loop->Spawn(scrub_->RunMemory(&gate_));
  seams_.loop->Spawn(scrub_->RunDisk(&gate_));
}

Task<void> Server::Stop() {
  client_listener_ = nullptr;
  data_listeners_.clear();
  const absl::Status why = error::Unavailable("server {} is stopping", options_.name);
  if (clients_ != nullptr) {
    clients_->CloseAll(why);
    uploads_->EndAll(why);
    holder_->EndAll(why);
    tier_->EndAll(why);
    peers_->CloseAll(why);
    receipts_->Wake();
    if (seams_.keeper != nullptr) {
      seams_.keeper->Wake();
    }
  }
  co_await gate_.Close();
}

}  // namespace gemel
