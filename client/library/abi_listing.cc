// SPDX-License-Identifier: Apache-2.0
//
// gemel_listing: what is committed of a job, and gemel_remove().
#include <string>
#include <vector>

#include "client/library/abi_client.h"
#include "client/library/abi_status.h"

struct gemel_listing {
  std::vector<gemel::ListedSnapshot> snapshots;
};

namespace gemel {
namespace {

absl::StatusOr<std::vector<ListedSnapshot>> List(Runtime* runtime, const char* job) {
  GEMEL_RETURN_IF_ERROR(RequireText(job, "the job's name"));
  auto list = [runtime, name = std::string(job)]() {
    return runtime->core()->List(name, Add(runtime->loop()->Now(), runtime->timeout()));
  };
  return runtime->Call<std::vector<ListedSnapshot>>(std::move(list), runtime->timeout(), nullptr);
}

absl::Status Remove(Runtime* runtime, const char* job, const char* name) {
  GEMEL_RETURN_IF_ERROR(RequireText(job, "the job's name"));
  GEMEL_RETURN_IF_ERROR(RequireText(name, "the snapshot's name"));
  auto remove = [runtime, owner = std::string(job), snapshot = std::string(name)]() {
    return runtime->core()->Remove(owner, snapshot,
                                   Add(runtime->loop()->Now(), runtime->timeout()));
  };
  return runtime->Call(std::move(remove), runtime->timeout());
}

}  // namespace
}  // namespace gemel

gemel_status gemel_list(gemel_client* client, const char* job, gemel_listing** listing) {
  *listing = nullptr;
  absl::StatusOr<std::vector<gemel::ListedSnapshot>> snapshots =
      gemel::List(client->runtime.get(), job);
  if (snapshots.ok()) {
    *listing = new gemel_listing{std::move(*snapshots)};
  }
  return gemel::ToC(snapshots.status());
}

size_t gemel_listing_count(const gemel_listing* listing) { return listing->snapshots.size(); }

gemel_status gemel_listing_entry(const gemel_listing* listing, size_t index, gemel_listed* entry) {
  absl::Status sized =
      gemel::RequireSize(entry->struct_bytes, sizeof(gemel_listed), "gemel_listed");
  if (!sized.ok()) {
    return gemel::ToC(sized);
  }
  if (index >= listing->snapshots.size()) {
    return gemel::ToC(gemel::error::InvalidArgument("entry {} of a listing of {} snapshots", index,
                                                    listing->snapshots.size()));
  }
  const gemel::ListedSnapshot& listed = listing->snapshots[index];
  gemel_listed told{};
  told.name = listed.snapshot.name.c_str();
  told.epoch = gemel::ToC(listed.snapshot.epoch);
  told.sequence = listed.snapshot.sequence;
  told.attempt = listed.snapshot.attempt;
  told.world_size = listed.world_size;
  told.bytes = listed.bytes;
  told.committed_unix_s = listed.committed_unix_s;
  told.persisted = listed.persisted ? 1 : 0;
  told.in_memory = listed.in_memory ? 1 : 0;
  gemel::GiveOut(told, entry);
  return gemel::ToC(absl::OkStatus());
}

void gemel_listing_free(gemel_listing* listing) { delete listing; }

gemel_status gemel_remove(gemel_client* client, const char* job, const char* name) {
  return gemel::ToC(gemel::Remove(client->runtime.get(), job, name));
}
