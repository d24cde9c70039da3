// SPDX-License-Identifier: Apache-2.0
//
// Every PersistStore behind one interface, with its loop and the faults of its disk.
// Thread safety: one thread. Ownership: a backend owns its loop, its medium and the store on it.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/epoll_loop.h"
#include "common/errors.h"
#include "common/sim_loop.h"
#include "server/persist/rocksdb_persist.h"
#include "server/persist/sim_persist.h"
#include "tests/unit/common_temporary_directory.h"
#include "tests/unit/server_persist_disk.h"
#include "tests/unit/server_persist_shards.h"

namespace gemel::testing {

class PersistBackend {
 public:
  virtual ~PersistBackend() = default;
  virtual PersistStore* store() = 0;
  virtual Loop* loop() = 0;
  virtual bool RunUntil(const std::function<bool()>& done, Duration limit = 20s) = 0;
  // A kill and a start.
  virtual void Reopen() = 0;
  // From now on a power cut at the first `step`, in the midst of what StartCrashing() begins.
  virtual void CrashAt(PersistStep step) = 0;
  // Runs until that step was reached, cuts the power and starts again on what is left.
  virtual void CrashDuring(Task<absl::Status> work) = 0;
  virtual void SetFull(bool full) = 0;
  virtual void FailNext() = 0;
  virtual void SetHung(bool hung) = 0;
  // Damages a chunk where it lies.
  virtual void Rot(const TestSnapshot& snapshot, uint32_t rank, uint32_t chunk) = 0;
  // Bytes of files on the disk, whatever they are.
  virtual uint64_t OccupiedBytes() = 0;

  template <typename T>
  std::shared_ptr<std::optional<T>> Start(Task<T> task) {
    auto result = std::make_shared<std::optional<T>>();
    loop()->Spawn(Into(std::move(task), result));
    return result;
  }

  template <typename T>
  T Await(Task<T> task) {
    const auto result = Start(std::move(task));
    EXPECT_TRUE(RunUntil([result] { return result->has_value(); }));
    GEMEL_CHECK(result->has_value()) << "no answer";
    return std::move(**result);
  }

  absl::Status Write(const PersistSource& source) { return Await(store()->Write(source)); }

  std::vector<PersistedSnapshot> List() {
    auto listed = Await(store()->List());
    GEMEL_CHECK(listed.ok()) << ToText(listed.status());
    return *std::move(listed);
  }

  absl::StatusOr<std::string> ReadChunk(const PersistSource& source, uint32_t chunk) {
    const auto into = std::make_shared<std::string>(source.chunks[chunk].size(), '\0');
    PersistTarget target;
    target.bytes = std::as_writable_bytes(std::span(*into));
    target.digest = source.digests[chunk];
    target.keep = into;
    const absl::Status read =
        Await(store()->ReadChunk(source.shard.shard, chunk, std::move(target)));
    return read.ok() ? absl::StatusOr<std::string>(*into) : read;
  }

  // Every byte of the shard, its digests and its manifest.
  bool Holds(const PersistSource& source) {
    const auto digests = Await(store()->ReadDigests(source.shard.shard));
    const auto manifest = Await(store()->ReadManifest(source.shard.shard.snapshot));
    bool same =
        digests.ok() && *digests == source.digests && manifest.ok() && *manifest == source.manifest;
    for (uint32_t chunk = 0; same && chunk < source.chunks.size(); ++chunk) {
      const auto read = ReadChunk(source, chunk);
      same = read.ok() && *read == AsText(source.chunks[chunk]);
    }
    return same;
  }

 private:
  template <typename T>
  static Task<void> Into(Task<T> task, std::shared_ptr<std::optional<T>> out) {
    T value = co_await std::move(task);
    out->emplace(std::move(value));
  }
};

class SimPersistBackend final : public PersistBackend {
 public:
  SimPersistBackend() { Open(); }

  ~SimPersistBackend() override { Kill(); }

  PersistStore* store() override { return store_.get(); }

  Loop* loop() override { return loop_.get(); }

  bool RunUntil(const std::function<bool()>& done, Duration limit) override {
    return scheduler_.RunUntil(done, Add(scheduler_.now(), limit));
  }

  void Reopen() override {
    Kill();
    Open();
  }

  void CrashAt(PersistStep step) override {
    reached_ = false;
    store_->SetHook([this, step](PersistStep now) { reached_ = reached_ || now == step; });
  }

  void CrashDuring(Task<absl::Status> work) override {
    Start(std::move(work));
    EXPECT_TRUE(RunUntil([this] { return reached_; }, 20s));
    Reopen();
  }

  void SetFull(bool full) override {
    state.set_capacity_bytes(full ? state.occupied_bytes() : UINT64_MAX);
  }

  void FailNext() override { state.FailNextStep(); }

  void SetHung(bool hung) override { state.set_hung(hung); }

  void Rot(const TestSnapshot& snapshot, uint32_t rank, uint32_t chunk) override {
    EXPECT_TRUE(state.Rot(snapshot[rank].shard.shard, chunk));
  }

  uint64_t OccupiedBytes() override { return state.occupied_bytes(); }

  SimPersistState state;

 private:
  void Open() {
    loop_ = std::make_unique<SimLoop>(&scheduler_);
    store_ = std::make_unique<SimPersist>(loop_.get(), &state, Random(seed_++));
  }

  void Kill() {
    loop_->Kill();
    store_ = nullptr;
    loop_ = nullptr;
  }

  SimScheduler scheduler_;
  uint64_t seed_ = 1;
  bool reached_ = false;
  std::unique_ptr<SimLoop> loop_;
  std::unique_ptr<SimPersist> store_;
};

class RocksdbPersistBackend final : public PersistBackend {
 public:
  explicit RocksdbPersistBackend(uint64_t file_bytes = kPersistFileBytes)
      : dir(folder_.path() + "/persist"),
        file_bytes_(file_bytes),
        env_(rocksdb::NewCompositeEnv(disk)) {
    Open();
  }

  ~RocksdbPersistBackend() override {
    disk->set_hung(false);
    Close();
  }

  PersistStore* store() override { return store_.get(); }

  Loop* loop() override { return loop_.get(); }

  EpollLoop* epoll() { return loop_.get(); }

  rocksdb::Env* env() { return env_.get(); }

  bool RunUntil(const std::function<bool()>& done, Duration limit) override {
    return loop_->RunUntil(done, Add(loop_->Now(), limit));
  }

  void Open() {
    loop_ = *EpollLoop::Create();
    RocksdbPersist::Options options;
    options.dir = dir;
    options.env = env_.get();
    options.file_bytes = file_bytes_;
    options.at_step = [this](PersistStep step) { OnStep(step); };
    store_ = RocksdbPersist::Start(loop_.get(), std::move(options));
    RunUntil([this] { return store_->state().openings > 0; }, 20s);
  }

  void Close() {
    if (loop_ != nullptr) {
      loop_->Shutdown();
    }
    store_ = nullptr;
    loop_ = nullptr;
  }

  void Reopen() override {
    Close();
    Open();
  }

  void CrashAt(PersistStep step) override {
    crash_at_ = step;
    crashed_ = false;
    armed_ = true;
  }

  void CrashDuring(Task<absl::Status> work) override {
    const auto done = Start(std::move(work));
    EXPECT_TRUE(RunUntil([this, done] { return crashed_ && done->has_value(); }, 20s));
    armed_ = false;
    Close();
    std::filesystem::remove_all(dir);
    std::filesystem::rename(ImagePath(), dir);
    Open();
  }

  void SetFull(bool full) override { disk->set_full(full); }

  void FailNext() override { disk->FailSync(1); }

  void SetHung(bool hung) override { disk->set_hung(hung); }

  void Rot(const TestSnapshot& snapshot, uint32_t rank, uint32_t chunk) override {
    const std::string_view bytes = AsText(snapshot[rank].chunks[chunk]).substr(0, 64);
    Change([bytes](const std::string&, std::string* content) {
      const size_t found = content->find(bytes);
      if (found != std::string::npos) {
        (*content)[found + 32] ^= 1;
      }
      return found != std::string::npos;
    });
  }

  // Changes one sorted file while nobody has it open; `change` says whether it was the one.
  void Change(const std::function<bool(const std::string&, std::string*)>& change) {
    Close();
    bool changed = false;
    for (const auto& entry : std::filesystem::directory_iterator(dir + "/db")) {
      if (entry.path().extension() == ".sst" && !changed) {
        std::string content = ReadWholeFile(entry.path().string());
        changed = change(entry.path().string(), &content);
        if (changed) {
          WriteWholeFile(entry.path().string(), content);
        }
      }
    }
    EXPECT_TRUE(changed);
    Open();
  }

  uint64_t OccupiedBytes() override {
    uint64_t bytes = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(dir)) {
      bytes += entry.is_regular_file() ? entry.file_size() : 0;
    }
    return bytes;
  }

 private:
  TemporaryDirectory folder_;

 public:
  const std::string dir;
  const std::shared_ptr<FaultyDisk> disk = std::make_shared<FaultyDisk>();
  // How many syncs there had been when the last write came to a step. Read while none is going on.
  std::map<PersistStep, uint64_t> syncs_at;

 private:
  std::string ImagePath() const { return folder_.path() + "/image"; }

  // On the store's thread.
  void OnStep(PersistStep step) {
    syncs_at[step] = disk->syncs();
    if (armed_ && !crashed_ && step == crash_at_) {
      disk->CopyWhatIsDurable(dir, ImagePath());
      crashed_ = true;
    }
  }

  const uint64_t file_bytes_;
  const std::unique_ptr<rocksdb::Env> env_;
  std::atomic<bool> armed_ = false;
  std::atomic<bool> crashed_ = false;
  std::atomic<PersistStep> crash_at_ = PersistStep::kChunkWritten;
  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<RocksdbPersist> store_;
};

}  // namespace gemel::testing
