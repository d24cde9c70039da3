// SPDX-License-Identifier: Apache-2.0
#include "placement/manager/parts.h"

#include <utility>

#include "common/check.h"

namespace gemel {
namespace {

constexpr size_t kPartBytesMax = kMetaTxnBytesMax - kPartSpareBytes;
constexpr size_t kPartOpsMax = kMetaTxnOpsMax - 1;

class Packer {
 public:
  // The transaction that takes an operation of `bytes`.
  Txn* RoomFor(size_t bytes) {
    GEMEL_CHECK_LE(bytes, kPartBytesMax);
    if (parts_.empty() || ops_ == kPartOpsMax || bytes_ + bytes > kPartBytesMax) {
      parts_.emplace_back();
      ops_ = 0;
      bytes_ = 0;
    }
    ops_ += 1;
    bytes_ += bytes;
    return &parts_.back();
  }

  std::vector<Txn> Take() { return std::move(parts_); }

 private:
  std::vector<Txn> parts_;
  size_t ops_ = 0;
  size_t bytes_ = 0;
};

}  // namespace

std::vector<Txn> InParts(Txn whole) {
  GEMEL_CHECK(whole.compares.empty());
  Packer packer;
  for (auto& [key, value] : whole.puts) {
    Txn* part = packer.RoomFor(key.size() + value.size());
    part->puts.emplace_back(std::move(key), std::move(value));
  }
  for (std::string& key : whole.deletes) {
    packer.RoomFor(key.size())->deletes.push_back(std::move(key));
  }
  return packer.Take();
}

}  // namespace gemel
