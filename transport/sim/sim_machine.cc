// SPDX-License-Identifier: Apache-2.0
#include "transport/sim/sim_machine.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"

namespace gemel {
namespace {

constexpr uint64_t kBitsPerByte = 8;

}  // namespace

SimMemory::SimMemory(std::string node, std::string name, uint64_t bytes,
                     std::shared_ptr<Account> account)
    : node_(std::move(node)),
      name_(std::move(name)),
      size_(bytes),
      account_(std::move(account)),
      // calloc: pages that a simulation never touches cost nothing.
      bytes_(static_cast<std::byte*>(std::calloc(bytes, 1))) {
  GEMEL_CHECK(bytes_ != nullptr) << "simulated memory " << name_ << " of " << bytes << " bytes";
  account_->used_bytes += size_;
}

SimMemory::~SimMemory() {
  GEMEL_CHECK(mappings.empty()) << name_;
  GEMEL_CHECK_GE(account_->used_bytes, size_);
  account_->used_bytes -= size_;
}

absl::StatusOr<std::shared_ptr<SimMemory>> SimMachine::CreateMemory(std::string name,
                                                                    uint64_t bytes) {
  if (bytes == 0) {
    return error::InvalidArgument("memory '{}' of 0 bytes", name);
  }
  const uint64_t used = account_->used_bytes;
  const uint64_t limit = account_->limit_bytes;
  if (used > limit || bytes > limit - used) {
    return error::ResourceExhausted(
        "memory '{}' of {} bytes does not fit on {}: {} bytes of {} are used; raise the memory "
        "limit",
        name, bytes, node_, used, limit);
  }
  std::erase_if(memories_, [](const auto& weak) { return weak.expired(); });
  auto memory = std::make_shared<SimMemory>(node_, std::move(name), bytes, account_);
  memories_.push_back(memory);
  return memory;
}

std::vector<std::shared_ptr<SimMemory>> SimMachine::AllMemories() const {
  std::vector<std::shared_ptr<SimMemory>> found;
  for (const std::weak_ptr<SimMemory>& weak : memories_) {
    if (std::shared_ptr<SimMemory> memory = weak.lock()) {
      found.push_back(std::move(memory));
    }
  }
  return found;
}

std::vector<std::shared_ptr<SimMemory>> SimMachine::Memories(const std::string& name) const {
  std::vector<std::shared_ptr<SimMemory>> found = AllMemories();
  std::erase_if(found, [&name](const auto& memory) { return memory->name() != name; });
  return found;
}

absl::Status SimMachine::FlipBit(const std::string& name, uint64_t bit) {
  const std::vector<std::shared_ptr<SimMemory>> found = Memories(name);
  if (found.empty()) {
    return error::NotFound("no memory '{}' on {}", name, node_);
  }
  const MutableByteSpan bytes = found.back()->bytes();
  GEMEL_CHECK(!bytes.empty());
  if (bit / kBitsPerByte >= bytes.size()) {
    return error::InvalidArgument("bit {} is outside memory '{}' of {} bytes", bit, name,
                                  bytes.size());
  }
  bytes[bit / kBitsPerByte] ^= static_cast<std::byte>(1U << (bit % kBitsPerByte));
  return absl::OkStatus();
}

}  // namespace gemel
