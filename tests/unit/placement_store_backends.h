// SPDX-License-Identifier: Apache-2.0
//
// A MetaStore under test with the loop that runs it, and the conformance suite over all of them
// (placement_store_conformance.cc). Each program that links the suite says which backends it has.
//
// Thread safety: the test's thread.
// Ownership: a Backend owns its loop and its stores.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/errors.h"
#include "common/loop.h"
#include "placement/store/meta_store.h"

namespace gemel {

class Backend {
 public:
  virtual ~Backend() = default;
  virtual MetaStore* store() = 0;
  // Another client of the same store; the same one where there is only one.
  virtual MetaStore* second() = 0;
  // The client stops and comes back, as a process that was killed and started.
  virtual void Reopen() = 0;
  // Closes the client with calls under way. Nothing where only the death of a process does that.
  virtual void Close() = 0;
  virtual Loop* loop() = 0;
  virtual void RunUntil(const std::function<bool()>& done) = 0;

  template <typename T>
  T Await(Task<T> task) {
    std::optional<T> result;
    Start(std::move(task), &result);
    RunUntil([&] { return result.has_value(); });
    GEMEL_CHECK(result.has_value());
    return std::move(*result);
  }

  // Begins it; `out` has the result once it has ended, and outlives it.
  template <typename T>
  void Start(Task<T> task, std::optional<T>* out) {
    loop()->Spawn(Into(std::move(task), out));
  }

  absl::StatusOr<CommitResult> Commit(Txn txn) { return Await(store()->Commit(std::move(txn))); }

  std::optional<Versioned> Get(const std::string& key) {
    auto found = Await(store()->Get(key));
    GEMEL_CHECK(found.ok()) << ToText(found.status());
    return *found;
  }

  std::vector<KeyValue> List(const std::string& prefix) {
    auto listed = Await(store()->List(prefix));
    GEMEL_CHECK(listed.ok()) << ToText(listed.status());
    return *std::move(listed);
  }

 private:
  template <typename T>
  static Task<void> Into(Task<T> task, std::optional<T>* out) {
    T value = co_await std::move(task);
    out->emplace(std::move(value));
  }
};

// Defined by each program for the names that it instantiates the suite with.
std::unique_ptr<Backend> MakeBackend(const std::string& name);

class MetaStoreConformance : public ::testing::TestWithParam<const char*> {
 protected:
  MetaStoreConformance() : backend_(MakeBackend(GetParam())) {}

  absl::StatusOr<CommitResult> Commit(Txn txn) { return backend_->Commit(std::move(txn)); }

  std::optional<Versioned> Get(const std::string& key) { return backend_->Get(key); }

  // The keys below `prefix`, as listed.
  std::vector<std::string> Keys(const std::string& prefix) {
    std::vector<std::string> keys;
    for (const KeyValue& found : backend_->List(prefix)) {
      keys.push_back(found.first);
    }
    return keys;
  }

  // Commits and gives the version; 0 when it was not applied.
  uint64_t Applied(Txn txn) {
    const absl::StatusOr<CommitResult> done = Commit(std::move(txn));
    GEMEL_CHECK(done.ok()) << ToText(done.status());
    return done->applied ? done->version : 0;
  }

  std::unique_ptr<Backend> backend_;
};

// A transaction that puts `key` if it has `version` (absent: is not there).
inline Txn PutIf(const std::string& key, const std::string& value,
                 std::optional<uint64_t> version) {
  Txn txn;
  txn.compares.push_back({.key = key, .version = version});
  txn.puts.emplace_back(key, value);
  return txn;
}

inline Txn Put(const std::string& key, const std::string& value) {
  Txn txn;
  txn.puts.emplace_back(key, value);
  return txn;
}

inline Txn Delete(const std::string& key) {
  Txn txn;
  txn.deletes.push_back(key);
  return txn;
}

}  // namespace gemel
