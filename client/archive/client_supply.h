// SPDX-License-Identifier: Apache-2.0
//
// ClientSupply: snapshots of a cluster, over a connection that is made anew when it broke.
//
// Thread safety: one thread. Sources that it opened live no longer than it does.
#pragma once

#include <memory>
#include <string>

#include "client/archive/archiver.h"
#include "client/archive/client_source.h"
#include "gemel/client.h"

namespace gemel::archive {

class ClientSupply final : public SnapshotSupply {
 public:
  // Of the server of this host. Does not connect yet.
  explicit ClientSupply(std::string address) : address_(std::move(address)) {}

  absl::StatusOr<std::optional<Newest>> FindNewest(const std::string& job) override;
  absl::StatusOr<std::unique_ptr<SnapshotSource>> Open(const std::string& job,
                                                       const std::string& name) override;

 private:
  absl::Status Connect();
  // `status`, after dropping the connection when that is why.
  absl::Status Judge(absl::Status status);

  const std::string address_;
  std::optional<Client> client_;
};

}  // namespace gemel::archive
