// SPDX-License-Identifier: Apache-2.0
#include "transport/verbs/verbs_references.h"

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace gemel {

VerbsReferences::VerbsReferences(VerbsDevice* device, VerbsQueuePair* pair)
    : device_(device), pair_(pair) {
  GEMEL_CHECK(device != nullptr && pair != nullptr);
}

bool VerbsReferences::MayRefer(ByteSpan bytes) const {
  return bytes.size() >= kVerbsReferredBytesMin && device_->RegionOf(bytes) != nullptr;
}

std::optional<VerbsReference> VerbsReferences::Refer(ByteSpan bytes, uint64_t begin) {
  if (!MayRefer(bytes)) {
    return std::nullopt;
  }
  bytes = bytes.first(std::min<size_t>(bytes.size(), kVerbsReferredBytesMax));
  const VerbsRegion* const region = device_->RegionOf(bytes);
  if (free_.empty() && windows_.size() < kVerbsReferencesMax) {
    if (auto made = device_->MakeWindow(); made.ok()) {
      free_.push_back(windows_.size());
      windows_.push_back(*std::move(made));
    }
  }
  if (free_.empty()) {
    return std::nullopt;
  }
  const uint64_t index = free_.back();
  VerbsWindow* const window = windows_[index].get();
  // The window lets nobody write.
  const MutableByteSpan place(const_cast<std::byte*>(bytes.data()), bytes.size());
  if (!pair_->Bind(index, window, *region, place, false).ok()) {
    return std::nullopt;
  }
  free_.pop_back();
  held_.push_back({.window = index, .begin = begin});
  made_ += 1;
  return VerbsReference{
      .place = {.address = reinterpret_cast<uintptr_t>(bytes.data()), .key = window->key()},
      .bytes = static_cast<uint32_t>(bytes.size())};
}

bool VerbsReferences::OnRead(uint16_t count) {
  if (count > held_.size()) {
    return false;
  }
  for (; count > 0; --count) {
    const uint64_t index = held_.front().window;
    held_.pop_front();
    const absl::Status taken = pair_->Invalidate(index, *windows_[index]);
    GEMEL_CHECK(taken.ok() || pair_->broken()) << taken;  // broken: nobody reads any more
  }
  return true;
}

void VerbsReferences::OnInvalidated(uint64_t window) {
  GEMEL_CHECK_LT(window, windows_.size());
  free_.push_back(window);
}

std::optional<uint64_t> VerbsReferences::oldest() const {
  return held_.empty() ? std::nullopt : std::optional<uint64_t>(held_.front().begin);
}

void VerbsReferences::Free() {
  for (const std::unique_ptr<VerbsWindow>& window : windows_) {
    window->Free();
  }
  free_.clear();
  held_.clear();
}

}  // namespace gemel
