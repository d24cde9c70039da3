// SPDX-License-Identifier: Apache-2.0
//
// gemel_restore: a RestoreReader, one call at a time, with the times of its phases. It restores or,
// without an epoch, reads.
#include <algorithm>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "client/core/restore_reader.h"
#include "client/library/abi_client.h"
#include "client/library/abi_status.h"
#include "common/mutex.h"

struct gemel_restore {
  std::shared_ptr<gemel::Runtime> runtime;
  std::shared_ptr<gemel::RestoreReader> reader;  // shared with its tasks on the loop
  bool reads = false;                            // neither reported nor awaited
  gemel::Duration begin{};
  gemel::Mutex mutex;  // calls run one after the other
  gemel::Duration fetch GEMEL_GUARDED_BY(mutex){};
  gemel::Duration copy GEMEL_GUARDED_BY(mutex){};
  std::set<uint32_t> unreadable GEMEL_GUARDED_BY(mutex);
  bool ended GEMEL_GUARDED_BY(mutex) = false;
  gemel::Duration timeout{};
  std::vector<std::string> lost;  // written by the wait that ends it
};

namespace gemel {
namespace {

using Reader = std::shared_ptr<RestoreReader>;

Task<void> ReleaseAlone(Reader reader) {
  // Only memory of the server: it has it back at the latest when this client goes.
  absl::Status status = co_await reader->Release();
  status.IgnoreError();
}

// Runs begin() on the loop; a reader that nobody waits for any more is released.
absl::StatusOr<Reader> BeginBy(Runtime* runtime,
                               std::function<Task<absl::StatusOr<Reader>>()> begin,
                               Duration timeout) {
  auto release = [runtime](Reader reader) {
    if (reader != nullptr) {
      runtime->loop()->Spawn(ReleaseAlone(std::move(reader)));
    }
  };
  return runtime->Call<Reader>(std::move(begin), timeout, std::move(release));
}

absl::StatusOr<Reader> Begin(Runtime* runtime, const gemel_restore_options& given) {
  GEMEL_RETURN_IF_ERROR(RequireText(given.job, "the job's name"));
  if (given.rank >= given.world_size) {
    return error::InvalidArgument("rank {} of a world of {}", given.rank, given.world_size);
  }
  const Duration timeout = ClampTimeout(given.timeout_ms);
  RestoreOptions options;
  options.job = given.job;
  options.epoch = FromC(given.epoch);
  options.rank = given.rank;
  options.world_size = given.world_size;
  options.deadline = Add(runtime->loop()->Now(), timeout);
  auto begin = [runtime, options = std::move(options)]() {
    return RestoreReader::Begin(runtime->core(), options);
  };
  return BeginBy(runtime, std::move(begin), timeout);
}

absl::StatusOr<Reader> BeginReading(Runtime* runtime, const gemel_read_options& given) {
  GEMEL_RETURN_IF_ERROR(RequireText(given.job, "the job's name"));
  const Duration timeout = ClampTimeout(given.timeout_ms);
  ReadOptions options;
  options.job = given.job;
  options.name = given.name != nullptr ? given.name : "";
  options.deadline = Add(runtime->loop()->Now(), timeout);
  auto begin = [runtime, options = std::move(options)]() {
    return RestoreReader::BeginRead(runtime->core(), options);
  };
  return BeginBy(runtime, std::move(begin), timeout);
}

// The caller's handle of a reader that began at `started`.
gemel_restore* HandleOf(const std::shared_ptr<Runtime>& runtime, Reader reader, TimePoint started) {
  auto* handle = new gemel_restore;
  handle->runtime = runtime;
  handle->reader = std::move(reader);
  handle->begin = runtime->loop()->Now() - started;
  return handle;
}

// The ranges of one part at once; those of all parts are begun together, so that the window of
// fetches is always full.
Task<absl::Status> EnsureAll(Runtime* runtime, Reader reader, std::vector<gemel_range> ranges,
                             std::shared_ptr<std::set<uint32_t>> unreadable) {
  std::vector<Task<absl::Status>> tasks;
  for (const gemel_range& range : ranges) {
    tasks.push_back(reader->Ensure(range.shard, range.offset, range.size));
  }
  std::vector<absl::Status> statuses = co_await Gather(runtime->loop(), std::move(tasks));
  for (size_t i = 0; i < statuses.size(); ++i) {
    if (absl::IsDataLoss(statuses[i])) {
      unreadable->insert(ranges[i].shard);
    }
  }
  co_return FirstError(statuses);
}

// Neighbouring ranges of one shard as one, so that no chunk is asked for twice at the same time.
std::vector<gemel_range> Merged(std::span<const gemel_range> given) {
  std::vector<gemel_range> ranges(given.begin(), given.end());
  auto before = [](const gemel_range& a, const gemel_range& b) {
    return std::pair(a.shard, a.offset) < std::pair(b.shard, b.offset);
  };
  std::sort(ranges.begin(), ranges.end(), before);
  std::vector<gemel_range> merged;
  for (const gemel_range& range : ranges) {
    if (range.size == 0) {
      continue;
    }
    gemel_range* last = merged.empty() ? nullptr : &merged.back();
    const bool joins =
        last != nullptr && last->shard == range.shard &&
        range.offset / kChunkBytes <= (last->offset + last->size - 1) / kChunkBytes + 1;
    if (!joins) {
      merged.push_back(range);
      merged.back().destination = nullptr;
      continue;
    }
    const uint64_t end = std::max(last->offset + last->size, range.offset + range.size);
    last->size = end - last->offset;
  }
  return merged;
}

absl::Status CheckRanges(const RestoreReader& reader, std::span<const gemel_range> ranges) {
  for (const gemel_range& range : ranges) {
    const uint64_t shards = reader.shards().size();
    if (range.shard >= shards) {
      return error::InvalidArgument("shard {} of {}: it has {} shards", range.shard,
                                    reader.snapshot().ToString(), shards);
    }
    const uint64_t bytes = reader.shards()[range.shard].bytes;
    if (range.offset > bytes || range.size > bytes - range.offset) {
      return error::InvalidArgument("bytes [{}, +{}) lie outside shard {} of {} bytes",
                                    range.offset, range.size, range.shard, bytes);
    }
    if (range.size > 0 && range.destination == nullptr) {
      return error::InvalidArgument("{} bytes of shard {} have no destination", range.size,
                                    range.shard);
    }
  }
  return absl::OkStatus();
}

// What is fetched in one go, while the caller copies what was fetched before it.
constexpr uint64_t kPartBytes = 16 * kMiB;
static_assert(kPartBytes % kChunkBytes == 0, "no chunk is in two parts");

struct Part {
  std::vector<gemel_range> wanted;  // without destinations, by shard and offset
  std::vector<gemel_range> copies;  // what of the caller's ranges lies in them
  Runtime::Begun fetched;
  std::shared_ptr<std::set<uint32_t>> unreadable;
};

// For each of `given` what to copy out of which part. REQUIRES: the parts cover them.
void PlanCopies(std::span<const gemel_range> given, std::vector<Part>* parts) {
  std::vector<std::pair<gemel_range, size_t>> pieces;
  for (size_t i = 0; i < parts->size(); ++i) {
    for (const gemel_range& wanted : (*parts)[i].wanted) {
      pieces.emplace_back(wanted, i);
    }
  }
  auto ends_before = [](const std::pair<gemel_range, size_t>& piece, const gemel_range& range) {
    return std::pair(piece.first.shard, piece.first.offset + piece.first.size) <=
           std::pair(range.shard, range.offset);
  };
  for (const gemel_range& range : given) {
    auto piece = std::lower_bound(pieces.begin(), pieces.end(), range, ends_before);
    for (uint64_t done = 0; done < range.size; ++piece) {
      const uint64_t at = range.offset + done;
      GEMEL_CHECK(piece != pieces.end() && piece->first.shard == range.shard);
      GEMEL_CHECK_LE(piece->first.offset, at);
      const uint64_t size =
          std::min(range.size - done, piece->first.offset + piece->first.size - at);
      auto* const place = static_cast<std::byte*>(range.destination) + done;
      (*parts)[piece->second].copies.push_back({range.shard, at, size, place});
      done += size;
    }
  }
}

std::vector<Part> PartsOf(std::span<const gemel_range> given) {
  std::vector<Part> parts;
  uint64_t room = 0;  // of the last part, whole chunks
  for (gemel_range rest : Merged(given)) {
    while (rest.size > 0) {
      if (room == 0) {
        parts.emplace_back().unreadable = std::make_shared<std::set<uint32_t>>();
        room = kPartBytes;
      }
      const uint64_t first = rest.offset / kChunkBytes;
      gemel_range wanted = rest;
      wanted.size = std::min(rest.size, first * kChunkBytes + room - rest.offset);
      parts.back().wanted.push_back(wanted);
      room -= (ChunkCount(wanted.offset + wanted.size) - first) * kChunkBytes;
      rest.offset += wanted.size;
      rest.size -= wanted.size;
    }
  }
  PlanCopies(given, &parts);
  return parts;
}

absl::Status CopyAll(gemel_restore* restore, std::span<const gemel_range> ranges)
    GEMEL_REQUIRES(restore->mutex) {
  for (const gemel_range& range : ranges) {
    const MutableByteSpan place(static_cast<std::byte*>(range.destination), range.size);
    absl::Status status = restore->reader->CopyOut(range.shard, range.offset, place);
    if (!status.ok()) {
      if (absl::IsDataLoss(status)) {
        restore->unreadable.insert(range.shard);
      }
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status CheckOpen(const gemel_restore& restore, bool ended) {
  return ended ? error::FailedPrecondition("this restore of {} has ended",
                                           restore.reader->snapshot().ToString())
               : absl::OkStatus();
}

absl::Status CheckReported(const gemel_restore& restore) {
  return restore.reads ? error::FailedPrecondition(
                             "{} is read, not restored: there is nothing to report or to wait for",
                             restore.reader->snapshot().ToString())
                       : absl::OkStatus();
}

absl::Status Read(gemel_restore* restore, std::span<const gemel_range> ranges) {
  GEMEL_RETURN_IF_ERROR(restore->runtime->Check());
  MutexLock lock(&restore->mutex);
  GEMEL_RETURN_IF_ERROR(CheckOpen(*restore, restore->ended));
  GEMEL_RETURN_IF_ERROR(CheckRanges(*restore->reader, ranges));
  Runtime* runtime = restore->runtime.get();
  const TimePoint deadline = Add(runtime->loop()->Now(), restore->timeout);
  std::vector<Part> parts = PartsOf(ranges);
  for (Part& part : parts) {
    part.fetched = runtime->Begin(
        [runtime, reader = restore->reader, wanted = part.wanted, unreadable = part.unreadable]() {
          return EnsureAll(runtime, reader, wanted, unreadable);
        });
  }
  absl::Status status;
  for (const Part& part : parts) {
    const TimePoint started = runtime->loop()->Now();
    const Duration left = std::max(Duration(), deadline - started);
    const absl::Status fetched = runtime->Await(part.fetched, left);
    const TimePoint here = runtime->loop()->Now();
    restore->fetch += here - started;
    if (absl::IsDataLoss(fetched)) {
      restore->unreadable.insert(part.unreadable->begin(), part.unreadable->end());
    }
    status.Update(fetched);
    if (absl::IsCancelled(fetched) || absl::IsDeadlineExceeded(fetched)) {
      break;
    }
    if (status.ok()) {  // else only which shards cannot be read
      status = CopyAll(restore, part.copies);
      restore->copy += runtime->loop()->Now() - here;
    }
  }
  return status;
}

absl::Status Report(gemel_restore* restore, bool verified, std::string why) {
  GEMEL_RETURN_IF_ERROR(restore->runtime->Check());
  GEMEL_RETURN_IF_ERROR(CheckReported(*restore));
  MutexLock lock(&restore->mutex);
  GEMEL_RETURN_IF_ERROR(CheckOpen(*restore, restore->ended));
  std::vector<uint32_t> unreadable;
  if (!verified) {
    unreadable.assign(restore->unreadable.begin(), restore->unreadable.end());
    // The caller found fault with bytes that matched their digests: all shards are suspect.
    for (uint32_t i = 0; restore->unreadable.empty() && i < restore->reader->shards().size(); ++i) {
      unreadable.push_back(i);
    }
  }
  auto report = [reader = restore->reader, verified, unreadable, why]() {
    return reader->Report(verified, unreadable, why);
  };
  return restore->runtime->Call(std::move(report), kCallGrace);
}

absl::StatusOr<gemel_restore_end> AwaitEndOf(gemel_restore* restore, Duration timeout) {
  GEMEL_RETURN_IF_ERROR(restore->runtime->Check());
  GEMEL_RETURN_IF_ERROR(CheckReported(*restore));
  MutexLock lock(&restore->mutex);
  GEMEL_RETURN_IF_ERROR(CheckOpen(*restore, restore->ended));
  Runtime* runtime = restore->runtime.get();
  auto wait = [runtime, timeout, reader = restore->reader]() {
    return reader->AwaitEnd(Add(runtime->loop()->Now(), timeout));
  };
  const TimePoint started = runtime->loop()->Now();
  GEMEL_ASSIGN_OR_RETURN(RestoreEnd end,
                         runtime->Call<RestoreEnd>(std::move(wait), timeout, nullptr));
  restore->ended = true;
  restore->lost = end.lost.empty() ? restore->reader->lost() : std::move(end.lost);
  gemel_restore_end told{};
  told.outcome = end.moved        ? GEMEL_RESTORE_MOVED
                 : end.read_again ? GEMEL_RESTORE_READ_AGAIN
                                  : GEMEL_RESTORE_VERIFIED;
  told.lost_count = restore->lost.size();
  told.local_bytes = restore->reader->local_bytes();
  told.peer_bytes = restore->reader->peer_bytes();
  told.begin_ms = Milliseconds(restore->begin);
  told.fetch_ms = Milliseconds(restore->fetch);
  told.copy_ms = Milliseconds(restore->copy);
  told.agree_ms = Milliseconds(runtime->loop()->Now() - started);
  // The server may reuse the memory from now on.
  runtime->Dispose(
      [runtime, reader = restore->reader]() { runtime->loop()->Spawn(ReleaseAlone(reader)); });
  return told;
}

void Dispose(std::unique_ptr<gemel_restore> restore) {
  std::shared_ptr<Runtime> runtime = restore->runtime;
  if (runtime->forked()) {
    static_cast<void>(restore.release());
    return;
  }
  bool ended = false;
  {
    MutexLock lock(&restore->mutex);
    ended = restore->ended;
  }
  auto last = [reader = std::move(restore->reader), raw = runtime.get(), ended]() mutable {
    if (!ended) {
      raw->loop()->Spawn(ReleaseAlone(std::move(reader)));
    }
    reader = nullptr;
  };
  runtime->Dispose(std::move(last));
}

}  // namespace
}  // namespace gemel

gemel_status gemel_restore_begin(gemel_client* client, const gemel_restore_options* options,
                                 gemel_restore** restore) {
  *restore = nullptr;
  absl::Status sized = gemel::RequireSize(options->struct_bytes, sizeof(gemel_restore_options),
                                          "gemel_restore_options");
  if (!sized.ok()) {
    return gemel::ToC(sized);
  }
  gemel::Runtime* runtime = client->runtime.get();
  const gemel::TimePoint started = runtime->loop()->Now();
  absl::StatusOr<gemel::Reader> reader = gemel::Begin(runtime, *options);
  if (reader.ok() && *reader != nullptr) {
    *restore = gemel::HandleOf(client->runtime, std::move(*reader), started);
    (*restore)->timeout = gemel::ClampTimeout(options->timeout_ms);
  }
  return gemel::ToC(reader.status());
}

gemel_status gemel_read_begin(gemel_client* client, const gemel_read_options* options,
                              gemel_restore** restore) {
  *restore = nullptr;
  absl::Status sized =
      gemel::RequireSize(options->struct_bytes, sizeof(gemel_read_options), "gemel_read_options");
  if (!sized.ok()) {
    return gemel::ToC(sized);
  }
  gemel::Runtime* runtime = client->runtime.get();
  const gemel::TimePoint started = runtime->loop()->Now();
  absl::StatusOr<gemel::Reader> reader = gemel::BeginReading(runtime, *options);
  if (reader.ok() && *reader == nullptr) {
    reader = gemel::error::Internal(
        "the server answers a read of job {} as a restore without a snapshot", options->job);
  }
  if (reader.ok()) {
    *restore = gemel::HandleOf(client->runtime, std::move(*reader), started);
    (*restore)->timeout = gemel::ClampTimeout(options->timeout_ms);
    (*restore)->reads = true;
  }
  return gemel::ToC(reader.status());
}

void gemel_restore_info(const gemel_restore* restore, gemel_snapshot_info* info) {
  GEMEL_CHECK_GE(info->struct_bytes, sizeof(info->struct_bytes)) << "gemel_snapshot_info";
  const gemel::SnapshotId& snapshot = restore->reader->snapshot();
  gemel_snapshot_info told{};
  told.name = snapshot.name.c_str();
  told.sequence = snapshot.sequence;
  told.epoch = gemel::ToC(snapshot.epoch);
  told.world_size = static_cast<uint32_t>(restore->reader->shards().size());
  told.round = restore->reader->round();
  gemel::GiveOut(told, info);
}

gemel_status gemel_restore_shard(const gemel_restore* restore, uint32_t rank,
                                 gemel_shard_info* info) {
  absl::Status sized =
      gemel::RequireSize(info->struct_bytes, sizeof(gemel_shard_info), "gemel_shard_info");
  if (!sized.ok()) {
    return gemel::ToC(sized);
  }
  const std::vector<gemel::RestoreShard>& shards = restore->reader->shards();
  if (rank >= shards.size()) {
    return gemel::ToC(gemel::error::InvalidArgument("shard {} of {}: it has {} shards", rank,
                                                    restore->reader->snapshot().ToString(),
                                                    shards.size()));
  }
  gemel_shard_info told{};
  told.bytes = shards[rank].bytes;
  told.layout_bytes = shards[rank].layout_bytes;
  gemel::EncodeDigest(shards[rank].root, told.root);
  gemel::GiveOut(told, info);
  return gemel::ToC(absl::OkStatus());
}

gemel_status gemel_restore_read(gemel_restore* restore, const gemel_range* ranges, size_t count) {
  return gemel::ToC(gemel::Read(restore, std::span(ranges, count)));
}

gemel_status gemel_restore_report(gemel_restore* restore, int verified, const char* why) {
  return gemel::ToC(gemel::Report(restore, verified != 0, why != nullptr ? why : ""));
}

gemel_status gemel_restore_wait(gemel_restore* restore, int64_t timeout_ms,
                                gemel_restore_end* end) {
  absl::Status sized =
      gemel::RequireSize(end->struct_bytes, sizeof(gemel_restore_end), "gemel_restore_end");
  if (!sized.ok()) {
    return gemel::ToC(sized);
  }
  absl::StatusOr<gemel_restore_end> told =
      gemel::AwaitEndOf(restore, gemel::ClampTimeout(timeout_ms));
  if (told.ok()) {
    gemel::GiveOut(*told, end);
  }
  return gemel::ToC(told.status());
}

const char* gemel_restore_lost(const gemel_restore* restore, size_t index) {
  return index < restore->lost.size() ? restore->lost[index].c_str() : nullptr;
}

void gemel_restore_free(gemel_restore* restore) {
  if (restore != nullptr) {
    gemel::Dispose(std::unique_ptr<gemel_restore>(restore));
  }
}
