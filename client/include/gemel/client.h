// SPDX-License-Identifier: Apache-2.0
//
// Gemel's client in C++: inline over the C ABI of gemel.h, so that compiler, standard library and
// flags of a program need not be those of the library. What each call means, which errors it has,
// and what timeouts, threads and fork() do: gemel.h, function of the same name.
//
//   auto client = gemel::Client::Connect({.address = "unix:///run/gemel/server.sock"});
//   if (!client) return Fail(client.status());
//
// Thread safety: as the handles of gemel.h: Client any thread, the others as told there.
// Ownership: values that are moved, not copied. They may be destroyed in any order. Only what was
// made by a call that succeeded may be used: a default constructed or moved-from value may only be
// assigned to. Errors: no exceptions. Status, or Result<T>, which holds a T when it is true.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gemel/gemel.h"

namespace gemel {

// How a call went: a canonical code and a sentence that names the thing, the sizes and the way out.
class [[nodiscard]] Status {
 public:
  Status() = default;

  // Takes the message of `status`.
  explicit Status(gemel_status status)
      : code_(status.code), message_(status.message != nullptr ? status.message : "") {
    gemel_status_free(&status);
  }

  // True when the call did all that it says.
  bool ok() const { return code_ == GEMEL_OK; }

  int code() const { return code_; }  // enum gemel_code

  // Empty when ok(); otherwise for people: programs decide by code().
  const std::string& message() const { return message_; }

 private:
  int code_ = GEMEL_OK;
  std::string message_;
};

// A T, or why there is none. Dereferencing one without a T ends the process.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(Status status) : status_(std::move(status)) {}  // NOLINT(google-explicit-constructor)

  Result(T value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor)

  // True: there is a T. An optional T inside is asked by has_value().
  explicit operator bool() const { return value_.has_value(); }

  // OK when there is a T.
  const Status& status() const { return status_; }

  T& operator*() {
    if (!value_.has_value()) {
      std::abort();
    }
    return *value_;
  }

  T* operator->() { return &**this; }

 private:
  Status status_;
  std::optional<T> value_;
};

namespace internal {
// Gives handles back to the library.
struct Free {
  void operator()(gemel_client* handle) const { gemel_client_free(handle); }

  void operator()(gemel_writer* handle) const { gemel_writer_free(handle); }

  void operator()(gemel_stage* handle) const { gemel_stage_free(handle); }

  void operator()(gemel_restore* handle) const { gemel_restore_free(handle); }

  void operator()(gemel_listing* handle) const { gemel_listing_free(handle); }
};
}  // namespace internal

// What all ranks of one incarnation of a job share: 16 bytes. One rank draws, all others are given
// it.
using Token = std::array<uint8_t, 16>;

// Unpredictable bits of the kernel. Never from a launcher's variables: those repeat.
inline Token DrawToken() {
  Token token;
  gemel_token_draw(token.data());
  return token;
}

// Bytes of state that the library copied in this process's memory so far; only grows.
inline uint64_t CopiedBytes() { return gemel_copied_bytes(); }

// Plain structures of gemel.h. Sizes are bytes, names ending in _ms milliseconds.
using Epoch = gemel_epoch;
using Listed = gemel_listed;
using Commit = gemel_commit;
using RestoreEnd = gemel_restore_end;
using Range = gemel_range;
using ShardInfo = gemel_shard_info;
using SnapshotInfo = gemel_snapshot_info;

// One rank's shard of one snapshot: write all of it, seal, wait. Dropped before the seal, it is
// aborted.
class SnapshotWriter {
 public:
  SnapshotWriter() = default;

  // Takes over the handle.
  explicit SnapshotWriter(gemel_writer* handle) : handle_(handle) {}

  // Appends; `offset` is the number of bytes written so far. The data may change when it returns.
  // GEMEL_INVALID_ARGUMENT, naming both sizes, for other offsets and for more than shard_bytes.
  Status Write(uint64_t offset, std::span<const std::byte> data) {
    return Status(gemel_writer_write(handle_.get(), offset, data.data(), data.size()));
  }

  // The same from CUDA memory, as it is after all that `stream` (CUstream; null: the default one)
  // was given so far.
  Status WriteCuda(uint64_t offset, const void* data, size_t size, void* stream = nullptr) {
    return Status(gemel_writer_write_cuda(handle_.get(), offset, data, size, stream));
  }

  // Ends writing; the cluster takes over. GEMEL_FAILED_PRECONDITION when bytes are missing.
  Status Seal() { return Status(gemel_writer_seal(handle_.get())); }

  // Until the snapshot of all ranks is committed. GEMEL_DEADLINE_EXCEEDED: not yet, wait again; any
  // other error: it was aborted, for the reason in the message. May run beside the next save.
  Result<Commit> Wait(int64_t timeout_ms) {
    Commit commit{};
    commit.struct_bytes = sizeof(commit);
    Status status(gemel_writer_wait(handle_.get(), timeout_ms, &commit));
    return status.ok() ? Result<Commit>(commit) : Result<Commit>(std::move(status));
  }

  // Gives the attempt up for all ranks; `why` is what they are told.
  Status Abort(const std::string& why) {
    return Status(gemel_writer_abort(handle_.get(), why.c_str()));
  }

  // Rises with every snapshot of the job that the cluster accepted.
  uint64_t sequence() const { return gemel_writer_sequence(handle_.get()); }

  // Milliseconds that the open waited for earlier saves or for memory.
  double waited_ms() const { return gemel_writer_waited_ms(handle_.get()); }

 private:
  std::unique_ptr<gemel_writer, internal::Free> handle_;
};

// A shard that is written before it has a name: write all of it, seal, open a snapshot with its id.
// Dropped, it is freed unless a snapshot took it over.
class StageWriter {
 public:
  StageWriter() = default;

  // Takes over the handle.
  explicit StageWriter(gemel_stage* handle) : handle_(handle) {}

  // As SnapshotWriter::Write().
  Status Write(uint64_t offset, std::span<const std::byte> data) {
    return Status(gemel_stage_write(handle_.get(), offset, data.data(), data.size()));
  }

  // As SnapshotWriter::WriteCuda().
  Status WriteCuda(uint64_t offset, const void* data, size_t size, void* stream = nullptr) {
    return Status(gemel_stage_write_cuda(handle_.get(), offset, data, size, stream));
  }

  // Ends writing: from here on it may be opened. GEMEL_FAILED_PRECONDITION when bytes are missing.
  Status Seal() { return Status(gemel_stage_seal(handle_.get())); }

  // For SnapshotOptions::stage, in this process or another of this host.
  std::array<uint8_t, 16> id() const {
    std::array<uint8_t, 16> id;
    gemel_stage_id(handle_.get(), id.data());
    return id;
  }

 private:
  std::unique_ptr<gemel_stage, internal::Free> handle_;
};

// One rank's part of a restore: read what it needs, report, wait. From BeginRead(): read only.
class Restore {
 public:
  Restore() = default;

  // Takes over the handle.
  explicit Restore(gemel_restore* handle) : handle_(handle) {}

  // What was chosen, for all ranks. The name in it is this object's.
  SnapshotInfo info() const {
    SnapshotInfo info{};
    info.struct_bytes = sizeof(info);
    gemel_restore_info(handle_.get(), &info);
    return info;
  }

  // Sizes and digest of what `rank` saved. GEMEL_INVALID_ARGUMENT when there was no such rank.
  Result<ShardInfo> Shard(uint32_t rank) const {
    ShardInfo info{};
    info.struct_bytes = sizeof(info);
    Status status(gemel_restore_shard(handle_.get(), rank, &info));
    return status.ok() ? Result<ShardInfo>(info) : Result<ShardInfo>(std::move(status));
  }

  // All ranges at once, each byte verified before it is copied to its destination. After
  // GEMEL_DATA_LOSS or GEMEL_UNAVAILABLE: Report(false, message), then Wait() tells how to go on.
  Status Read(std::span<const Range> ranges) {
    return Status(gemel_restore_read(handle_.get(), ranges.data(), ranges.size()));
  }

  // Bytes [offset, offset + into.size()) of the shard of `rank`.
  Status Read(uint32_t rank, uint64_t offset, std::span<std::byte> into) {
    const Range range{rank, offset, into.size(), into.data()};
    return Read(std::span(&range, 1));
  }

  // How it went for this rank; `why` when it did not verify.
  Status Report(bool verified, const std::string& why = "") {
    return Status(gemel_restore_report(handle_.get(), verified ? 1 : 0, why.c_str()));
  }

  // Until all ranks have verified; RestoreEnd::outcome says when to begin again instead.
  // GEMEL_DEADLINE_EXCEEDED names for whom it waits: wait again. The last call on this object.
  Result<RestoreEnd> Wait(int64_t timeout_ms) {
    RestoreEnd end{};
    end.struct_bytes = sizeof(end);
    Status status(gemel_restore_wait(handle_.get(), timeout_ms, &end));
    return status.ok() ? Result<RestoreEnd>(end) : Result<RestoreEnd>(std::move(status));
  }

  // After Wait(): what was lost, and why.
  std::vector<std::string> lost() const {
    std::vector<std::string> sentences;
    for (size_t i = 0; const char* sentence = gemel_restore_lost(handle_.get(), i); ++i) {
      sentences.emplace_back(sentence);
    }
    return sentences;
  }

 private:
  std::unique_ptr<gemel_restore, internal::Free> handle_;
};

// What is committed of a job, by rising order.
class Listing {
 public:
  Listing() = default;

  // Takes over the handle.
  explicit Listing(gemel_listing* handle) : handle_(handle) {}

  size_t size() const { return gemel_listing_count(handle_.get()); }

  // The name in it is this object's. GEMEL_INVALID_ARGUMENT from size() on.
  Result<Listed> Entry(size_t index) const {
    Listed entry{};
    entry.struct_bytes = sizeof(entry);
    Status status(gemel_listing_entry(handle_.get(), index, &entry));
    return status.ok() ? Result<Listed>(entry) : Result<Listed>(std::move(status));
  }

 private:
  std::unique_ptr<gemel_listing, internal::Free> handle_;
};

// One connection to the server of this host.
class Client {
 public:
  struct Options {
    std::string address;          // unix:///PATH of the socket of this host's server
    int64_t timeout_ms = 30'000;  // of the connection, and of calls without one of their own
  };

  // Which committed snapshots also go to disk: zeros, none.
  struct PersistOptions {
    uint32_t every = 0;       // every n-th
    uint32_t interval_s = 0;  // and the first after so many seconds
    uint32_t copies = 0;      // disks that hold each shard; 0: 1
    uint32_t keep = 0;        // persisted snapshots that stay on disk; 0: 2
  };

  // How the copies are spread over the servers (gemel_strategy).
  enum class Strategy { kGroup = GEMEL_STRATEGY_GROUP, kRing = GEMEL_STRATEGY_RING };

  // What is not given has the value that suits one process on a laptop.
  struct SnapshotOptions {
    std::string job;
    Epoch epoch{};
    std::string name;      // a training step is a name: "7"
    uint32_t attempt = 0;  // equal on all ranks, other for every try
    uint32_t rank = 0;
    uint32_t world_size = 1;
    uint64_t shard_bytes = 0;               // of this rank: exactly as many are to be written
    uint64_t layout_bytes = 0;              // leading bytes of the shard that say what the rest is
    std::array<uint8_t, 16> layout_hash{};  // of the whole job's layout: equal on all ranks
    uint32_t copies = 2;                    // servers that hold each shard, this host's included
    uint32_t min_copies = 0;                // 0: = copies
    uint32_t keep_latest = 1;               // 0: all
    bool skip_when_busy = false;            // else wait until earlier saves have made room
    int64_t timeout_ms = 120'000;  // of the open; uncommitted after it, the attempt is aborted
    PersistOptions persist;
    std::optional<std::array<uint8_t, 16>>
        stage;                             // the shard is what was staged there: seal it and wait
    Strategy strategy = Strategy::kGroup;  // equal on all ranks
  };

  struct StageOptions {
    uint64_t shard_bytes = 0;      // exactly as many are to be written
    uint64_t layout_bytes = 0;     // leading bytes that say what the rest is
    int64_t timeout_ms = 120'000;  // how long to wait for memory
  };

  struct RestoreOptions {
    std::string job;
    Epoch epoch{};
    uint32_t rank = 0;
    uint32_t world_size = 1;       // any: need not be the saved one
    int64_t timeout_ms = 300'000;  // of the begin, and of all reads together
  };

  struct ReadOptions {
    std::string job;
    std::string name;              // empty: the newest committed
    int64_t timeout_ms = 300'000;  // of the begin, and of all reads together
  };

  Client() = default;

  // GEMEL_UNAVAILABLE, naming the address, when no server answers there.
  static Result<Client> Connect(const Options& options) {
    gemel_client_options given{};
    given.struct_bytes = sizeof(given);
    given.address = options.address.c_str();
    given.timeout_ms = options.timeout_ms;
    Client client;
    gemel_client* handle = nullptr;
    Status status(gemel_client_connect(&given, &handle));
    client.handle_.reset(handle);
    return status.ok() ? Result<Client>(std::move(client)) : Result<Client>(std::move(status));
  }

  // 32 hexadecimal digits each.
  std::string cluster_id() const { return gemel_client_cluster_id(handle_.get()); }

  std::string server_id() const { return gemel_client_server_id(handle_.get()); }

  // Before anything is restored or saved. All ranks give the same token.
  Result<Epoch> AcquireEpoch(const std::string& job, const Token& token) {
    Epoch epoch{};
    Status status(gemel_epoch_acquire(handle_.get(), job.c_str(), token.data(), &epoch));
    return status.ok() ? Result<Epoch>(epoch) : Result<Epoch>(std::move(status));
  }

  // Nothing in it when the cluster decided to skip this snapshot.
  Result<std::optional<SnapshotWriter>> OpenSnapshot(const SnapshotOptions& options) {
    gemel_snapshot_options given{};
    given.struct_bytes = sizeof(given);
    given.job = options.job.c_str();
    given.epoch = options.epoch;
    given.name = options.name.c_str();
    given.attempt = options.attempt;
    given.rank = options.rank;
    given.world_size = options.world_size;
    given.shard_bytes = options.shard_bytes;
    given.layout_bytes = options.layout_bytes;
    for (size_t i = 0; i < options.layout_hash.size(); ++i) {
      given.layout_hash[i] = options.layout_hash[i];
    }
    given.copies = options.copies;
    given.min_copies = options.min_copies;
    given.keep_latest = options.keep_latest;
    given.on_busy = options.skip_when_busy ? GEMEL_ON_BUSY_SKIP : GEMEL_ON_BUSY_WAIT;
    given.timeout_ms = options.timeout_ms;
    given.persist_every = options.persist.every;
    given.persist_interval_s = options.persist.interval_s;
    given.persist_copies = options.persist.copies;
    given.persist_keep = options.persist.keep;
    given.stage = options.stage.has_value() ? options.stage->data() : nullptr;
    given.strategy = static_cast<int>(options.strategy);
    gemel_writer* handle = nullptr;
    return Given<SnapshotWriter>(gemel_snapshot_open(handle_.get(), &given, &handle), &handle);
  }

  // Memory of this host for a shard without a name. GEMEL_RESOURCE_EXHAUSTED names the sizes.
  Result<StageWriter> OpenStage(const StageOptions& options) {
    gemel_stage_options given{};
    given.struct_bytes = sizeof(given);
    given.shard_bytes = options.shard_bytes;
    given.layout_bytes = options.layout_bytes;
    given.timeout_ms = options.timeout_ms;
    gemel_stage* handle = nullptr;
    Status status(gemel_stage_open(handle_.get(), &given, &handle));
    return status.ok() ? Result<StageWriter>(StageWriter(handle))
                       : Result<StageWriter>(std::move(status));
  }

  // Nothing in it when the job never committed here.
  Result<std::optional<Restore>> BeginRestore(const RestoreOptions& options) {
    gemel_restore_options given{};
    given.struct_bytes = sizeof(given);
    given.job = options.job.c_str();
    given.epoch = options.epoch;
    given.rank = options.rank;
    given.world_size = options.world_size;
    given.timeout_ms = options.timeout_ms;
    gemel_restore* handle = nullptr;
    return Given<Restore>(gemel_restore_begin(handle_.get(), &given, &handle), &handle);
  }

  // One committed snapshot for reading, without an epoch. GEMEL_NOT_FOUND names what is there
  // instead. It stays until the Restore is dropped.
  Result<Restore> BeginRead(const ReadOptions& options) {
    gemel_read_options given{};
    given.struct_bytes = sizeof(given);
    given.job = options.job.c_str();
    given.name = options.name.empty() ? nullptr : options.name.c_str();
    given.timeout_ms = options.timeout_ms;
    gemel_restore* handle = nullptr;
    Status status(gemel_read_begin(handle_.get(), &given, &handle));
    return status.ok() ? Result<Restore>(Restore(handle)) : Result<Restore>(std::move(status));
  }

  // What is committed; nothing of a job that was never seen.
  Result<Listing> List(const std::string& job) {
    gemel_listing* handle = nullptr;
    Status status(gemel_list(handle_.get(), job.c_str(), &handle));
    return status.ok() ? Result<Listing>(Listing(handle)) : Result<Listing>(std::move(status));
  }

  // Removes every committed snapshot of that name. GEMEL_NOT_FOUND when there is none.
  Status Remove(const std::string& job, const std::string& name) {
    return Status(gemel_remove(handle_.get(), job.c_str(), name.c_str()));
  }

  // Ends the connection; calls that wait fail. Sealed saves go on in the cluster. Idempotent.
  void Close() { gemel_client_close(handle_.get()); }

 private:
  // A handle as the object that owns it; null, with success, as nothing.
  template <typename T, typename Handle>
  static Result<std::optional<T>> Given(gemel_status raw, Handle** handle) {
    Status status(raw);
    if (!status.ok()) {
      return status;
    }
    return *handle != nullptr ? std::optional<T>(T(*handle)) : std::optional<T>();
  }

  std::unique_ptr<gemel_client, internal::Free> handle_;
};

}  // namespace gemel
