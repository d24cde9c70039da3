// SPDX-License-Identifier: Apache-2.0
#include "client/archive/importer.h"

#include <algorithm>

#include "client/archive/client_source.h"
#include "client/archive/export_reader.h"
#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::archive {
namespace {

constexpr int64_t kBaseTimeoutMs = 10 * 60 * 1000;
constexpr uint64_t kSlowestBytesPerMs = 10'000;  // 10 MB/s
constexpr int64_t kWaitMs = 1000;

struct Opened {
  SnapshotWriter writer;
  uint32_t rank = 0;
};

absl::Status CheckJobIsFree(Client* client, const std::string& job, bool takeover) {
  auto listing = client->List(job);
  GEMEL_RETURN_IF_ERROR(StatusOf(listing.status()));
  if (listing->size() == 0 || takeover) {
    return absl::OkStatus();
  }
  auto newest = listing->Entry(listing->size() - 1);
  GEMEL_RETURN_IF_ERROR(StatusOf(newest.status()));
  return error::FailedPrecondition(
      "job '{}' is there already, its newest snapshot is '{}': a trainer that runs it would lose "
      "its epoch and stop; name another with --job, or say --takeover",
      job, newest->name);
}

absl::StatusOr<std::vector<std::string>> ForeignFiles(ObjectStore* store,
                                                      const ImportOptions& options) {
  if (!options.file.empty()) {
    return std::vector<std::string>{options.prefix + options.file};
  }
  GEMEL_ASSIGN_OR_RETURN(const std::vector<ObjectInfo> found, store->List(options.prefix));
  std::vector<std::string> keys;
  for (const ObjectInfo& object : found) {
    if (object.key.ends_with(".safetensors") &&
        object.key.find('/', options.prefix.size()) == std::string::npos) {
      keys.push_back(object.key);
    }
  }
  return keys;
}

class Importing {
 public:
  Importing(ObjectStore* store, Pace* pace, const ImportPlan& plan, const ImportOptions& options,
            const Watcher& watcher)
      : store_(store),
        pace_(pace),
        plan_(plan),
        clients_(options.clients),
        options_(options),
        watcher_(watcher) {}

  absl::StatusOr<ImportResult> Run();

 private:
  absl::StatusOr<Epoch> Acquire();
  absl::Status OpenAll(const Epoch& epoch);
  absl::Status Fill(Opened* opened);
  absl::Status AwaitCommit();

  ObjectStore* const store_;
  Pace* const pace_;
  const ImportPlan& plan_;
  const std::vector<Client*>& clients_;
  const ImportOptions& options_;
  const Watcher& watcher_;
  ImportResult result_;
  std::vector<Opened> opened_;
  uint64_t done_ = 0;
};

// Every connection says the token: equal tokens are one incarnation.
absl::StatusOr<Epoch> Importing::Acquire() {
  const Token token = DrawToken();
  Epoch epoch{};
  for (Client* client : clients_) {
    auto acquired = client->AcquireEpoch(result_.job, token);
    GEMEL_RETURN_IF_ERROR(StatusOf(acquired.status()));
    epoch = *acquired;
  }
  return epoch;
}

absl::Status Importing::OpenAll(const Epoch& epoch) {
  GEMEL_CHECK(opened_.empty()) << "once an import";
  const Token token = DrawToken();
  const auto attempt = static_cast<uint32_t>(token[0] | token[1] << 8 | token[2] << 16) + 1;
  for (uint32_t rank = 0; rank < result_.world_size; ++rank) {
    const ShardLayout& layout = plan_.shards[rank].layout;
    auto writer = clients_[rank % clients_.size()]->OpenSnapshot(
        {.job = result_.job,
         .epoch = epoch,
         .name = result_.name,
         .attempt = attempt,
         .rank = rank,
         .world_size = result_.world_size,
         .shard_bytes = layout.shard_bytes,
         .layout_bytes = layout.layout_bytes,
         .layout_hash = layout.layout_hash,
         .copies = options_.copies,
         .keep_latest = 0,
         .timeout_ms = kBaseTimeoutMs + static_cast<int64_t>(result_.bytes / kSlowestBytesPerMs),
         .strategy = options_.strategy});
    GEMEL_RETURN_IF_ERROR(StatusOf(writer.status()));
    GEMEL_CHECK(writer->has_value()) << "an open that waits is never skipped";
    opened_.push_back({std::move(**writer), rank});
  }
  return absl::OkStatus();
}

absl::Status Importing::Fill(Opened* opened) {
  uint64_t at = 0;
  const auto write = [&](ByteSpan bytes) {
    if (pace_->stopping()) {
      return error::Cancelled("asked to end: nothing of {} is kept", result_.job);
    }
    const absl::Status status = StatusOf(opened->writer.Write(at, bytes));
    at += bytes.size();
    done_ += bytes.size();
    watcher_(done_, result_.bytes, fmt::format("writing shard {}", opened->rank));
    return status;
  };
  GEMEL_RETURN_IF_ERROR(ReadShard(store_, plan_.shards[opened->rank], write));
  GEMEL_CHECK_EQ(at, plan_.shards[opened->rank].layout.shard_bytes) << opened->rank;
  return StatusOf(opened->writer.Seal());
}

absl::Status Importing::AwaitCommit() {
  for (Opened& opened : opened_) {
    while (true) {
      auto commit = opened.writer.Wait(kWaitMs);
      if (commit) {
        result_.sequence = commit->sequence;
        break;
      }
      if (commit.status().code() != GEMEL_DEADLINE_EXCEEDED) {
        return StatusOf(commit.status());
      }
      if (pace_->stopping()) {
        return error::Cancelled("asked to end; {}@{} may still be committed", result_.job,
                                result_.name);
      }
      watcher_(done_, result_.bytes, "waiting for the commit");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ImportResult> Importing::Run() {
  result_.job = options_.job.empty() ? plan_.snapshot.job : options_.job;
  result_.name = options_.name.empty() ? plan_.snapshot.name : options_.name;
  result_.world_size = static_cast<uint32_t>(plan_.shards.size());
  result_.bytes = plan_.bytes();
  if (result_.job.empty() || result_.name.empty()) {
    return error::InvalidArgument(
        "these files do not say of which job and step they are: say --job "
        "and --name");
  }
  GEMEL_RETURN_IF_ERROR(CheckJobIsFree(clients_[0], result_.job, options_.takeover));
  GEMEL_ASSIGN_OR_RETURN(const Epoch epoch, Acquire());
  GEMEL_RETURN_IF_ERROR(OpenAll(epoch));
  for (Opened& opened : opened_) {
    GEMEL_RETURN_IF_ERROR(Fill(&opened));
  }
  GEMEL_RETURN_IF_ERROR(AwaitCommit());
  return result_;
}

}  // namespace

absl::StatusOr<ImportPlan> PlanImport(ObjectStore* store, Pace* pace, const ImportOptions& options,
                                      const Watcher& watcher) {
  GEMEL_CHECK(store != nullptr && pace != nullptr);
  if (options.file.empty()) {
    const absl::StatusOr<ExportRecord> record = ReadRecord(store, options.prefix);
    if (record.ok()) {
      GEMEL_RETURN_IF_ERROR(VerifyExport(store, pace, options.prefix, *record, watcher));
      return PlanShards(store, options.prefix, *record);
    }
    // Without a journal either, these may be files of others.
    if (!absl::IsNotFound(record.status()) || store->Size(options.prefix + kJournalName).ok()) {
      return record.status();
    }
  }
  GEMEL_ASSIGN_OR_RETURN(const std::vector<std::string> keys, ForeignFiles(store, options));
  if (keys.empty()) {
    return error::NotFound("{} holds neither an export ({}) nor *.safetensors files",
                           store->Where(options.prefix), kRecordName);
  }
  return PlanForeign(store, keys);
}

absl::StatusOr<ImportResult> Import(ObjectStore* store, Pace* pace, const ImportPlan& plan,
                                    const ImportOptions& options, const Watcher& watcher) {
  GEMEL_CHECK(store != nullptr && pace != nullptr);
  GEMEL_CHECK(!options.clients.empty() && !plan.shards.empty());
  return Importing(store, pace, plan, options, watcher).Run();
}

}  // namespace gemel::archive
