// SPDX-License-Identifier: Apache-2.0
#include "client/archive/client_supply.h"

#include "common/status_macros.h"

namespace gemel::archive {

absl::Status ClientSupply::Connect() {
  if (client_.has_value()) {
    return absl::OkStatus();
  }
  auto client = Client::Connect({.address = address_});
  GEMEL_RETURN_IF_ERROR(StatusOf(client.status()));
  client_ = std::move(*client);
  return absl::OkStatus();
}

absl::Status ClientSupply::Judge(absl::Status status) {
  if (absl::IsUnavailable(status) || absl::IsFailedPrecondition(status) ||
      absl::IsCancelled(status)) {
    client_.reset();
  }
  return status;
}

absl::StatusOr<std::optional<SnapshotSupply::Newest>> ClientSupply::FindNewest(
    const std::string& job) {
  GEMEL_RETURN_IF_ERROR(Connect());
  auto listing = client_->List(job);
  if (!listing) {
    return Judge(StatusOf(listing.status()));
  }
  if (listing->size() == 0) {
    return std::optional<Newest>();
  }
  auto newest = listing->Entry(listing->size() - 1);
  GEMEL_RETURN_IF_ERROR(StatusOf(newest.status()));
  return std::optional<Newest>({client_->cluster_id(), newest->name, newest->sequence});
}

absl::StatusOr<std::unique_ptr<SnapshotSource>> ClientSupply::Open(const std::string& job,
                                                                   const std::string& name) {
  GEMEL_RETURN_IF_ERROR(Connect());
  absl::StatusOr<std::unique_ptr<ClientSource>> source = ClientSource::Open(&*client_, job, name);
  if (!source.ok()) {
    return Judge(source.status());
  }
  return std::move(*source);
}

}  // namespace gemel::archive
