// SPDX-License-Identifier: Apache-2.0
//
// Server: one gemel-server, on its seams: ties the parts together and to their listeners.
//
//   disk → identity → keeper → slabs → what was kept is hashed → data listener → persistent tier →
//   join → client listener → ready
//
// Thread safety: one loop.
// Ownership: owns every part. Stop() must have returned before the destructor, unless the loop was
// shut down (a kill).
// Errors of Start(): what is wrong with options or disk; AlreadyExists when an address is taken;
// FailedPrecondition when placement is of another cluster or the keeper refuses; each names the way
// out.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/sync.h"
#include "server/clients.h"
#include "server/directives.h"
#include "server/fetch.h"
#include "server/holder.h"
#include "server/identity.h"
#include "server/membership.h"
#include "server/receipts.h"
#include "server/recovery.h"
#include "server/restore.h"
#include "server/scrub.h"
#include "server/stages.h"
#include "server/tier.h"
#include "server/uploads.h"

namespace gemel {

struct ServerOptions {
  std::string name;            // "server-0"
  std::string domain;          // "pod0/rack3/host7"
  std::string client_address;  // "unix://…/server.sock"
  std::string data_address;    // to listen on: "tcp://127.0.0.1:0"; several, one a path: by commas
  uint64_t memory_bytes = 0;
  uint64_t slab_bytes = kSlabBytesDefault;
  uint64_t repair_bytes_per_second = kRepairRateDefault;  // 0: no bound
  ScrubOptions scrub;
  Duration disk_patience = kPersistListPatience;        // at start; then it joins without its disk
  uint32_t control_protocol = kControlProtocolVersion;  // at most: an older release speaks less
};

class Server {
 public:
  // A reason to end the process, after Start(): it was refused by its cluster.
  using Fatal = std::function<void(const absl::Status&)>;

  Server(const ServerSeams& seams, ServerOptions options, Fatal fatal);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Returns when clients may connect.
  Task<absl::Status> Start();
  // Accepts no more, ends what is under way, returns when nobody is inside. Also after a Start()
  // that failed; not while it runs.
  Task<void> Stop();

  ServerId id() const;
  // Zero until Start() has read the disk.
  Incarnation incarnation() const;
  // With the port that the system chose.
  std::string data_address() const;

  // For tests and for the status that main prints.
  const ObjectTable& objects() const { return *objects_; }

  ObjectTable* mutable_objects() { return objects_.get(); }

  const SlabPool& pool() const { return *pool_; }

  const Admission& admission() const { return *admission_; }

  const Identity& identity() const { return *identity_; }

  const Uploads& uploads() const { return *uploads_; }

  const Holder& holder() const { return *holder_; }

  const Restores& restores() const { return *restores_; }

  const Stages& stages() const { return *stages_; }

  Directives* directives() { return directives_.get(); }

 private:
  Task<absl::Status> Load();
  void MakeParts();
  void Connect();
  absl::Status ListenForPeers();
  absl::Status ListenForClients();
  void StartTasks();
  bool DropCorrupt(const std::shared_ptr<Object>& object, const absl::Status& why);
  void OnCorrupt(const std::shared_ptr<Object>& object, const absl::Status& why);

  const ServerSeams seams_;
  const ServerOptions options_;
  const Fatal fatal_;
  Random random_;
  Gate gate_;
  std::unique_ptr<Identity> identity_;
  std::unique_ptr<Recovery> recovery_;
  std::shared_ptr<SlabPool> pool_;  // shared: objects give their slabs back late
  std::unique_ptr<Control> control_;
  std::unique_ptr<ObjectTable> objects_;
  std::unique_ptr<Tier> tier_;
  std::unique_ptr<Peers> peers_;
  std::unique_ptr<Receipts> receipts_;
  std::unique_ptr<Uploads> uploads_;
  std::unique_ptr<Admission> admission_;
  std::unique_ptr<Holder> holder_;
  std::unique_ptr<Fetches> fetches_;
  std::unique_ptr<Restores> restores_;
  std::unique_ptr<Stages> stages_;
  std::unique_ptr<Membership> membership_;
  std::unique_ptr<Directives> directives_;
  std::unique_ptr<Scrub> scrub_;
  std::unique_ptr<Clients> clients_;
  std::vector<std::unique_ptr<Listener>> data_listeners_;
  std::unique_ptr<Listener> client_listener_;
};

}  // namespace gemel
