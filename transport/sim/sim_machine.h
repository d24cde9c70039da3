// SPDX-License-Identifier: Apache-2.0
//
// SimMachine: the shared memory of one simulated node. SimMemory is one memfd: it lives as long as
// a handle or a mapping of it lives in any process of the node, so a keeper process saves it from
// the death of a server, and it is gone when the last process is.
//
// Thread safety: one thread.
// Ownership: memories are shared by handles and mappings; the machine names them weakly. Accounts
// are shared with the memories, so they may outlive the machine.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/bytes.h"
#include "transport/host.h"

namespace gemel {

// One mapping of one memory, as the machine's tables show it.
struct SimMappingRecord {
  uint64_t pid = 0;
  Access access = Access::kNone;
  uint64_t protects = 0;  // calls of Protect() so far
};

class SimMemory final : public SharedHandle {
 public:
  struct Account {
    uint64_t used_bytes = 0;
    uint64_t limit_bytes = std::numeric_limits<uint64_t>::max();
  };

  SimMemory(std::string node, std::string name, uint64_t bytes, std::shared_ptr<Account> account);
  ~SimMemory() override;
  SimMemory(const SimMemory&) = delete;
  SimMemory& operator=(const SimMemory&) = delete;

  int descriptor() const override { return -1; }

  const std::string& node() const { return node_; }

  const std::string& name() const { return name_; }

  MutableByteSpan bytes() const { return {bytes_.get(), size_}; }

  // Kept up to date by the mappings themselves; the key is a mapping's number.
  std::map<uint64_t, SimMappingRecord> mappings;
  uint64_t next_mapping = 1;

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };

  const std::string node_;
  const std::string name_;
  const uint64_t size_;
  const std::shared_ptr<Account> account_;
  std::unique_ptr<std::byte, Free> bytes_;
};

class SimMachine {
 public:
  explicit SimMachine(std::string node)
      : node_(std::move(node)), account_(std::make_shared<SimMemory::Account>()) {}

  // ResourceExhausted, naming what is used and the limit.
  absl::StatusOr<std::shared_ptr<SimMemory>> CreateMemory(std::string name, uint64_t bytes);

  void SetMemoryLimit(uint64_t bytes) { account_->limit_bytes = bytes; }

  uint64_t memory_used_bytes() const { return account_->used_bytes; }

  // Memories of that name which still exist, oldest first (names need not be unique).
  std::vector<std::shared_ptr<SimMemory>> Memories(const std::string& name) const;
  // All that exist, oldest first: for a fault that picks one.
  std::vector<std::shared_ptr<SimMemory>> AllMemories() const;

  // Flips bit `bit` of the newest memory called `name`, whoever maps it. NotFound, or
  // InvalidArgument when it has no such bit.
  absl::Status FlipBit(const std::string& name, uint64_t bit);

 private:
  const std::string node_;
  std::shared_ptr<SimMemory::Account> account_;  // shared with memories, which may live longer
  std::vector<std::weak_ptr<SimMemory>> memories_;
};

}  // namespace gemel
