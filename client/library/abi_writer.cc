// SPDX-License-Identifier: Apache-2.0
//
// gemel_writer: a ShardWriter, with the states that keep its calls in order.
#include <cstddef>
#include <string>
#include <string_view>

#include "client/core/shard_writer.h"
#include "client/library/abi_client.h"
#include "client/library/abi_cuda.h"
#include "client/library/abi_status.h"
#include "common/mutex.h"

enum class WriterState { kFilling, kSealed, kAborted };

struct gemel_writer {
  std::shared_ptr<gemel::Runtime> runtime;
  std::shared_ptr<gemel::ShardWriter> shard;  // shared with its tasks on the loop
  gemel::Mutex mutex;                         // write, seal and abort exclude one another
  WriterState state GEMEL_GUARDED_BY(mutex) = WriterState::kFilling;
  gemel::TimePoint sealed_at{};  // set before the state says sealed
  std::atomic<double> committed_ms{-1.0};
};

namespace gemel {
namespace {

// Of the first version, which had nothing after the time-out.
constexpr size_t kOptionsBytesLeast = offsetof(gemel_snapshot_options, persist_every);

absl::Status CheckOptions(const gemel_snapshot_options& given) {
  GEMEL_RETURN_IF_ERROR(RequireText(given.job, "the job's name"));
  GEMEL_RETURN_IF_ERROR(RequireText(given.name, "the snapshot's name"));
  if (given.rank >= given.world_size) {
    return error::InvalidArgument("rank {} of a world of {}", given.rank, given.world_size);
  }
  if (given.layout_bytes > given.shard_bytes) {
    return error::InvalidArgument("a layout of {} bytes in a shard of {}", given.layout_bytes,
                                  given.shard_bytes);
  }
  if (given.copies == 0 || given.min_copies > given.copies) {
    return error::InvalidArgument(
        "copies={}, min_copies={}: at least 1 copy, and no more needed "
        "than asked for",
        given.copies, given.min_copies);
  }
  if (given.on_busy != GEMEL_ON_BUSY_WAIT && given.on_busy != GEMEL_ON_BUSY_SKIP) {
    return error::InvalidArgument("on_busy={}: 0 waits, 1 skips", given.on_busy);
  }
  if (given.strategy != GEMEL_STRATEGY_GROUP && given.strategy != GEMEL_STRATEGY_RING) {
    return error::InvalidArgument("strategy={}: 0 is group, 1 is ring", given.strategy);
  }
  return absl::OkStatus();
}

absl::StatusOr<StageId> StageFromC(const uint8_t* raw) {
  const std::string_view bytes(reinterpret_cast<const char*>(raw), 16);
  GEMEL_ASSIGN_OR_RETURN(const StageId stage, StageId::FromBytes(bytes));
  if (stage.IsZero()) {
    return error::InvalidArgument("the stage's id is all zeros: give what gemel_stage_id() gave");
  }
  return stage;
}

SaveOptions OptionsOf(const gemel_snapshot_options& given) {
  SaveOptions options;
  options.job = given.job;
  options.epoch = FromC(given.epoch);
  options.name = given.name;
  options.attempt = given.attempt;
  options.rank = given.rank;
  options.world_size = given.world_size;
  options.shard_bytes = given.shard_bytes;
  options.layout_bytes = given.layout_bytes;
  options.layout_hash = DecodeDigest(given.layout_hash);
  options.copies = given.copies;
  options.min_copies = given.min_copies;
  options.strategy =
      given.strategy == GEMEL_STRATEGY_RING ? StrategyChoice::kRing : StrategyChoice::kGroup;
  options.keep_latest = given.keep_latest;
  options.on_busy = given.on_busy == GEMEL_ON_BUSY_SKIP ? OnBusyPolicy::kSkip : OnBusyPolicy::kWait;
  options.persist_every = given.persist_every;
  options.persist_interval_s = given.persist_interval_s;
  options.persist_copies = given.persist_copies;
  options.persist_keep = given.persist_keep;
  options.save_timeout = ClampTimeout(given.timeout_ms);
  return options;
}

Task<void> AbortAlone(std::shared_ptr<ShardWriter> shard, std::string why) {
  // Nobody is left to be told; a server that is not reached gives up the attempts of lost clients.
  absl::Status status = co_await shard->Abort(std::move(why));
  status.IgnoreError();
}

absl::StatusOr<std::shared_ptr<ShardWriter>> Open(Runtime* runtime,
                                                  const gemel_snapshot_options& given) {
  GEMEL_RETURN_IF_ERROR(CheckOptions(given));
  SaveOptions options = OptionsOf(given);
  options.deadline = Add(runtime->loop()->Now(), options.save_timeout);
  if (given.stage != nullptr) {
    GEMEL_ASSIGN_OR_RETURN(options.stage, StageFromC(given.stage));
  }
  const Duration timeout = options.save_timeout;
  auto open = [runtime, options = std::move(options)]() {
    return ShardWriter::Open(runtime->core(), options);
  };
  auto abort = [runtime](std::shared_ptr<ShardWriter> shard) {
    if (shard != nullptr) {
      runtime->loop()->Spawn(AbortAlone(std::move(shard), "its process stopped waiting for it"));
    }
  };
  return runtime->Call<std::shared_ptr<ShardWriter>>(std::move(open), timeout, std::move(abort));
}

absl::Status CheckFilling(const gemel_writer& writer, WriterState state) {
  if (state != WriterState::kFilling) {
    return error::FailedPrecondition("{} is {} already", writer.shard->snapshot().ToString(),
                                     state == WriterState::kSealed ? "sealed" : "aborted");
  }
  return absl::OkStatus();
}

// Runs `append` for the shard's memory, and nothing of the writer beside it.
template <typename Append>
absl::Status Write(gemel_writer* writer, Append&& append) {
  GEMEL_RETURN_IF_ERROR(writer->runtime->Check());
  MutexLock lock(&writer->mutex);
  GEMEL_RETURN_IF_ERROR(CheckFilling(*writer, writer->state));
  const std::shared_ptr<ShardFill> fill = writer->shard->fill();
  if (fill == nullptr) {
    return error::FailedPrecondition("{} was staged: there is nothing to write, seal it",
                                     writer->shard->snapshot().ToString());
  }
  return append(fill);
}

absl::Status Seal(gemel_writer* writer) {
  GEMEL_RETURN_IF_ERROR(writer->runtime->Check());
  MutexLock lock(&writer->mutex);
  GEMEL_RETURN_IF_ERROR(CheckFilling(*writer, writer->state));
  const ChunkFiller* filler = writer->shard->filler();  // null: staged whole
  if (filler != nullptr && !filler->complete()) {
    return error::FailedPrecondition(
        "{} bytes of rank {} of {} were written, not all: it cannot be sealed", filler->appended(),
        writer->shard->rank(), writer->shard->snapshot().ToString());
  }
  auto seal = [shard = writer->shard]() { return shard->Seal(); };
  writer->sealed_at = writer->runtime->loop()->Now();
  writer->state = WriterState::kSealed;
  return writer->runtime->Call(std::move(seal), writer->runtime->timeout());
}

absl::StatusOr<SaveResult> AwaitCommitOf(gemel_writer* writer, Duration timeout) {
  GEMEL_RETURN_IF_ERROR(writer->runtime->Check());
  {
    MutexLock lock(&writer->mutex);
    if (writer->state != WriterState::kSealed) {
      return error::FailedPrecondition(
          "{} is {}: seal it before its commit is waited for", writer->shard->snapshot().ToString(),
          writer->state == WriterState::kFilling ? "not sealed" : "aborted");
    }
  }
  Runtime* runtime = writer->runtime.get();
  auto wait = [runtime, timeout, shard = writer->shard]() {
    return shard->AwaitCommit(Add(runtime->loop()->Now(), timeout));
  };
  GEMEL_ASSIGN_OR_RETURN(SaveResult result,
                         runtime->Call<SaveResult>(std::move(wait), timeout, nullptr));
  double unknown = -1.0;
  writer->committed_ms.compare_exchange_strong(
      unknown, Milliseconds(runtime->loop()->Now() - writer->sealed_at));
  return result;
}

absl::Status Abort(gemel_writer* writer, const char* why) {
  GEMEL_RETURN_IF_ERROR(writer->runtime->Check());
  MutexLock lock(&writer->mutex);
  if (writer->state == WriterState::kAborted) {
    return absl::OkStatus();
  }
  writer->state = WriterState::kAborted;
  auto abort = [shard = writer->shard, text = std::string(why != nullptr ? why : "")]() {
    return shard->Abort(text);
  };
  return writer->runtime->Call(std::move(abort), kCallGrace);
}

// The last of a writer, on the loop.
void Dispose(std::unique_ptr<gemel_writer> writer) {
  std::shared_ptr<Runtime> runtime = writer->runtime;
  if (runtime->forked()) {
    static_cast<void>(writer.release());
    return;
  }
  WriterState state = WriterState::kAborted;
  {
    MutexLock lock(&writer->mutex);
    state = writer->state;
  }
  auto last = [shard = std::move(writer->shard), raw = runtime.get(), state]() mutable {
    if (state == WriterState::kFilling) {
      raw->loop()->Spawn(AbortAlone(std::move(shard), "its writer was dropped before the seal"));
    }
    shard = nullptr;
  };
  runtime->Dispose(std::move(last));
}

}  // namespace
}  // namespace gemel

gemel_status gemel_snapshot_open(gemel_client* client, const gemel_snapshot_options* options,
                                 gemel_writer** writer) {
  *writer = nullptr;
  absl::Status sized = gemel::RequireSize(options->struct_bytes, gemel::kOptionsBytesLeast,
                                          "gemel_snapshot_options");
  if (!sized.ok()) {
    return gemel::ToC(sized);
  }
  absl::StatusOr<std::shared_ptr<gemel::ShardWriter>> shard =
      gemel::Open(client->runtime.get(), gemel::TakeIn(options));
  if (shard.ok() && *shard != nullptr) {
    *writer = new gemel_writer;
    (*writer)->runtime = client->runtime;
    (*writer)->shard = std::move(*shard);
  }
  return gemel::ToC(shard.status());
}

uint64_t gemel_writer_sequence(const gemel_writer* writer) {
  return writer->shard->snapshot().sequence;
}

double gemel_writer_waited_ms(const gemel_writer* writer) {
  return gemel::Milliseconds(writer->shard->waited());
}

gemel_status gemel_writer_write(gemel_writer* writer, uint64_t offset, const void* data,
                                size_t size) {
  const gemel::ByteSpan bytes(static_cast<const std::byte*>(data), size);
  return gemel::ToC(gemel::Write(writer, [&](const std::shared_ptr<gemel::ShardFill>& fill) {
    return fill->filler()->AppendAt(offset, bytes);
  }));
}

gemel_status gemel_writer_write_cuda(gemel_writer* writer, uint64_t offset, const void* data,
                                     size_t size, void* stream) {
  const gemel::CudaSource source{{static_cast<const std::byte*>(data), size}, stream};
  return gemel::ToC(gemel::Write(writer, [&](const std::shared_ptr<gemel::ShardFill>& fill) {
    return gemel::AppendCuda(writer->runtime.get(), fill, offset, source);
  }));
}

gemel_status gemel_writer_seal(gemel_writer* writer) { return gemel::ToC(gemel::Seal(writer)); }

gemel_status gemel_writer_wait(gemel_writer* writer, int64_t timeout_ms, gemel_commit* commit) {
  absl::Status sized =
      gemel::RequireSize(commit->struct_bytes, sizeof(gemel_commit), "gemel_commit");
  if (!sized.ok()) {
    return gemel::ToC(sized);
  }
  absl::StatusOr<gemel::SaveResult> result =
      gemel::AwaitCommitOf(writer, gemel::ClampTimeout(timeout_ms));
  if (result.ok()) {
    gemel_commit told{};
    told.sequence = writer->shard->snapshot().sequence;
    told.copies = result->copies;
    told.redundancy_full = result->redundancy_full ? 1 : 0;
    gemel::EncodeDigest(result->root, told.root);
    told.committed_ms = writer->committed_ms.load();
    gemel::GiveOut(told, commit);
  }
  return gemel::ToC(result.status());
}

gemel_status gemel_writer_abort(gemel_writer* writer, const char* why) {
  return gemel::ToC(gemel::Abort(writer, why));
}

void gemel_writer_free(gemel_writer* writer) {
  if (writer != nullptr) {
    gemel::Dispose(std::unique_ptr<gemel_writer>(writer));
  }
}
