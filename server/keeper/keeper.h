// SPDX-License-Identifier: Apache-2.0
//
// Keeper: who holds a server's descriptors while the server is dead: the slab directory, the slabs,
// and a handle of each client process. Production: KeeperLink to a gemel-keeper, or SystemdStore;
// simulation: KeeperLink to a KeeperService in a process of its own on the server's node.
//
// Thread safety: one loop.
// Ownership: borrowed by the server, outlives it. Handles are shared: several processes have them.
// Invariants:
//   (1) what was left is handed out only when the process that could write it is proven dead;
//   (2) what is kept stays kept until Forget(): handing it out gives nothing away.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/ids.h"
#include "common/sync.h"
#include "transport/host.h"

namespace gemel {

enum class KeptKind : uint8_t { kDirectory = 1, kSlab = 2, kClient = 3 };

inline bool IsValid(KeptKind value) {
  return value >= KeptKind::kDirectory && value <= KeptKind::kClient;
}

// `number`: of a directory the life that wrote it, of a slab its index, of a client its holder key.
struct KeptName {
  KeptKind kind = KeptKind::kSlab;
  uint64_t number = 0;

  friend auto operator<=>(const KeptName&, const KeptName&) = default;

  static void Fields(auto& m, auto&& field) {
    field("kind", m.kind);
    field("number", m.number);
  }

  std::string ToString() const;  // "slab 3"
};

struct KeptItem {
  KeptName name;
  std::shared_ptr<SharedHandle> handle;
};

class Keeper {
 public:
  // Who takes; the handle of its own process proves its death to the next one.
  struct Taker {
    std::string server_name;
    ServerId server;
    ClusterId cluster;  // zero before the first join
    Incarnation incarnation;
    std::shared_ptr<SharedHandle> process;
  };

  virtual ~Keeper() = default;

  // "the keeper at unix:///…", for messages to people.
  virtual std::string Where() const = 0;
  // All that the former life left, by kind and number. FailedPrecondition when that life is not
  // proven dead, or it is another server's; Unavailable when nobody keeps; each names the way out.
  virtual Task<absl::StatusOr<std::vector<KeptItem>>> Take(Taker taker) = 0;
  // Kept when OK. An item of the same name is replaced. Otherwise it is told by an event, and the
  // item is given again as soon as somebody keeps.
  virtual Task<absl::Status> Give(std::vector<KeptItem> items) = 0;
  virtual void Forget(std::vector<KeptName> names) = 0;
  // Keeps up with the keeper's own deaths until `gate` closes; Wake() lets it see that.
  virtual Task<void> Run(Gate* gate) = 0;
  virtual void Wake() = 0;
};

}  // namespace gemel
