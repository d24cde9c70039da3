// SPDX-License-Identifier: Apache-2.0
//
// gemel_stage: a ShardStage, with the states that keep its calls in order.
#include <string_view>

#include "client/core/shard_stage.h"
#include "client/library/abi_client.h"
#include "client/library/abi_cuda.h"
#include "client/library/abi_status.h"
#include "common/mutex.h"

struct gemel_stage {
  std::shared_ptr<gemel::Runtime> runtime;
  std::shared_ptr<gemel::ShardStage> shard;  // shared with its calls on the loop
  gemel::Mutex mutex;                        // write and seal exclude one another
  bool sealed GEMEL_GUARDED_BY(mutex) = false;
};

namespace gemel {
namespace {

using Staged = std::shared_ptr<ShardStage>;

Task<void> DropAlone(Staged shard) {
  // Only memory of the server: it has it back at the latest when this client goes.
  absl::Status status = co_await shard->Drop();
  status.IgnoreError();
}

StageId DrawStage() {
  uint8_t raw[16];
  gemel_token_draw(raw);
  const std::string_view bytes(reinterpret_cast<const char*>(raw), sizeof(raw));
  const absl::StatusOr<StageId> drawn = StageId::FromBytes(bytes);
  GEMEL_CHECK(drawn.ok() && !drawn->IsZero());
  return *drawn;
}

absl::StatusOr<Staged> Stage(Runtime* runtime, const gemel_stage_options& given) {
  if (given.shard_bytes == 0 || given.layout_bytes > given.shard_bytes) {
    return error::InvalidArgument("a layout of {} bytes in a shard of {}", given.layout_bytes,
                                  given.shard_bytes);
  }
  const Duration timeout = ClampTimeout(given.timeout_ms);
  StageOptions options;
  options.id = DrawStage();
  options.shard_bytes = given.shard_bytes;
  options.layout_bytes = given.layout_bytes;
  options.deadline = Add(runtime->loop()->Now(), timeout);
  auto open = [runtime, options]() { return ShardStage::Open(runtime->core(), options); };
  auto drop = [runtime](Staged shard) { runtime->loop()->Spawn(DropAlone(std::move(shard))); };
  return runtime->Call<Staged>(std::move(open), timeout, std::move(drop));
}

absl::Status CheckFilling(const gemel_stage& stage, bool sealed) {
  return sealed
             ? error::FailedPrecondition("stage {} is sealed already", stage.shard->id().ToShort())
             : absl::OkStatus();
}

// Runs `append` for the shard's memory, and nothing of the stage beside it.
template <typename Append>
absl::Status Write(gemel_stage* stage, Append&& append) {
  GEMEL_RETURN_IF_ERROR(stage->runtime->Check());
  MutexLock lock(&stage->mutex);
  GEMEL_RETURN_IF_ERROR(CheckFilling(*stage, stage->sealed));
  return append(stage->shard->fill());
}

absl::Status Seal(gemel_stage* stage) {
  GEMEL_RETURN_IF_ERROR(stage->runtime->Check());
  MutexLock lock(&stage->mutex);
  GEMEL_RETURN_IF_ERROR(CheckFilling(*stage, stage->sealed));
  const ChunkFiller& filler = *stage->shard->filler();
  if (!filler.complete()) {
    return error::FailedPrecondition("{} of {} bytes of stage {} were written: it cannot be sealed",
                                     filler.appended(), stage->shard->bytes(),
                                     stage->shard->id().ToShort());
  }
  stage->sealed = true;
  Runtime* runtime = stage->runtime.get();
  auto seal = [runtime, shard = stage->shard]() {
    return shard->Seal(Add(runtime->loop()->Now(), runtime->timeout()));
  };
  return runtime->Call(std::move(seal), runtime->timeout());
}

// The last of a stage, on the loop.
void Dispose(std::unique_ptr<gemel_stage> stage) {
  std::shared_ptr<Runtime> runtime = stage->runtime;
  if (runtime->forked()) {
    static_cast<void>(stage.release());
    return;
  }
  auto last = [shard = std::move(stage->shard), raw = runtime.get()]() mutable {
    raw->loop()->Spawn(DropAlone(std::move(shard)));
    shard = nullptr;
  };
  runtime->Dispose(std::move(last));
}

}  // namespace
}  // namespace gemel

gemel_status gemel_stage_open(gemel_client* client, const gemel_stage_options* options,
                              gemel_stage** stage) {
  *stage = nullptr;
  absl::Status sized =
      gemel::RequireSize(options->struct_bytes, sizeof(gemel_stage_options), "gemel_stage_options");
  if (!sized.ok()) {
    return gemel::ToC(sized);
  }
  absl::StatusOr<gemel::Staged> shard = gemel::Stage(client->runtime.get(), *options);
  if (shard.ok()) {
    *stage = new gemel_stage;
    (*stage)->runtime = client->runtime;
    (*stage)->shard = std::move(*shard);
  }
  return gemel::ToC(shard.status());
}

gemel_status gemel_stage_write(gemel_stage* stage, uint64_t offset, const void* data, size_t size) {
  const gemel::ByteSpan bytes(static_cast<const std::byte*>(data), size);
  return gemel::ToC(gemel::Write(stage, [&](const std::shared_ptr<gemel::ShardFill>& fill) {
    return fill->filler()->AppendAt(offset, bytes);
  }));
}

gemel_status gemel_stage_write_cuda(gemel_stage* stage, uint64_t offset, const void* data,
                                    size_t size, void* stream) {
  const gemel::CudaSource source{{static_cast<const std::byte*>(data), size}, stream};
  return gemel::ToC(gemel::Write(stage, [&](const std::shared_ptr<gemel::ShardFill>& fill) {
    return gemel::AppendCuda(stage->runtime.get(), fill, offset, source);
  }));
}

gemel_status gemel_stage_seal(gemel_stage* stage) { return gemel::ToC(gemel::Seal(stage)); }

void gemel_stage_id(const gemel_stage* stage, uint8_t id[16]) {
  const std::string raw = stage->shard->id().ToBytes();
  std::memcpy(id, raw.data(), raw.size());
}

void gemel_stage_free(gemel_stage* stage) {
  if (stage != nullptr) {
    gemel::Dispose(std::unique_ptr<gemel_stage>(stage));
  }
}
