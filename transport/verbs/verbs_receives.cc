// SPDX-License-Identifier: Apache-2.0
#include "transport/verbs/verbs_receives.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "transport/outcome.h"
#include "transport/verbs/verbs_queue_pair.h"

namespace gemel {
namespace {

constexpr size_t kPageBytes = 4096;

}  // namespace

VerbsReceives::VerbsReceives(VerbsDevice* device, const Options& options)
    : device_(device), options_(options), block_slots_(std::min(kBlockSlots, options.slots_max)) {}

VerbsReceives::~VerbsReceives() {
  GEMEL_CHECK(streams_ == 0 && taken_ == 0) << streams_ << " streams, " << taken_ << " slots";
  if (queue_ != nullptr) {
    CheckFreed(device_->calls().destroy_srq(queue_), "ibv_destroy_srq");
  }
}

absl::StatusOr<std::shared_ptr<VerbsReceives>> VerbsReceives::Of(VerbsDevice* device,
                                                                 const Options& options) {
  std::shared_ptr<VerbsReceives> present = device->receives().lock();
  if (present != nullptr && present->HasRoom() &&
      present->options_.slot_bytes == options.slot_bytes) {
    return present;
  }
  GEMEL_ASSIGN_OR_RETURN(std::shared_ptr<VerbsReceives> made, Make(device, options));
  device->receives() = made;
  return made;
}

absl::StatusOr<std::shared_ptr<VerbsReceives>> VerbsReceives::Make(VerbsDevice* device,
                                                                   Options options) {
  GEMEL_CHECK(options.slots_max >= kSlotsMaxMin && options.slot_bytes > 0);
  options.slots_max = std::min(options.slots_max, device->receives_max());
  if (options.slots_max < kSlotsMaxMin) {
    return error::Unimplemented("{} has no shared receive queues", device->name());
  }
  std::shared_ptr<VerbsReceives> made(new VerbsReceives(device, options));
  ibv_srq_init_attr wanted{};
  wanted.attr = {.max_wr = options.slots_max, .max_sge = 1, .srq_limit = 0};
  made->queue_ = device->calls().create_srq(device->domain(), &wanted);
  if (made->queue_ == nullptr) {
    return StatusOfErrno(errno, "a shared receive queue of " + device->name());
  }
  return made;
}

// Invariant (3).
bool VerbsReceives::HasRoom() const {
  return streams_ < options_.slots_max / 2 && lost_ < options_.slots_max / 8;
}

absl::Status VerbsReceives::Attach(uint32_t credits) {
  GEMEL_CHECK(HasRoom() && credits > 0);
  const uint32_t wanted = std::min(options_.slots_max, credits_ + credits + lost_);
  while (slots() < wanted) {
    GEMEL_RETURN_IF_ERROR(AddBlock());
  }
  GEMEL_RETURN_IF_ERROR(PostAll());
  streams_ += 1;
  credits_ += credits;
  return absl::OkStatus();
}

void VerbsReceives::Detach(uint32_t credits, bool was_connected) {
  GEMEL_CHECK(streams_ > 0 && credits_ >= credits);
  streams_ -= 1;
  credits_ -= credits;
  lost_ += was_connected ? 1 : 0;
  GEMEL_CHECK_LE(lost_, options_.slots_max / 8 + options_.slots_max / 2);
  GEMEL_CHECK_GE(slots(), std::min(options_.slots_max, credits_ + lost_));
}

absl::Status VerbsReceives::AddBlock() {
  const uint32_t count = std::min(block_slots_, options_.slots_max - slots());
  const size_t bytes = DivideUp(size_t{count} * options_.slot_bytes, kPageBytes) * kPageBytes;
  Block block;
  block.memory.reset(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, bytes)));
  GEMEL_CHECK(block.memory != nullptr) << bytes;
  std::memset(block.memory.get(), 0, bytes);
  GEMEL_ASSIGN_OR_RETURN(block.region, device_->Register({block.memory.get(), bytes}));
  blocks_.push_back(std::move(block));
  for (uint32_t i = 0; i < count; ++i) {
    unposted_.push_back(slots());
    is_taken_.push_back(false);
  }
  return absl::OkStatus();
}

ByteSpan VerbsReceives::Slot(uint64_t slot) const {
  GEMEL_CHECK_LT(slot, slots());
  const Block& block = blocks_[slot / block_slots_];
  return {block.memory.get() + (slot % block_slots_) * options_.slot_bytes, options_.slot_bytes};
}

absl::Status VerbsReceives::Post(uint64_t slot) {
  const ByteSpan into = Slot(slot);
  ibv_sge piece = {reinterpret_cast<uintptr_t>(into.data()), options_.slot_bytes,
                   blocks_[slot / block_slots_].region->local_key()};
  ibv_recv_wr request{};
  request.wr_id = kVerbsReceive | slot;
  request.sg_list = &piece;
  request.num_sge = 1;
  ibv_recv_wr* refused = nullptr;
  const int error = ibv_post_srq_recv(queue_, &request, &refused);
  return error == 0 ? absl::OkStatus()
                    : StatusOfErrno(error, "posting a shared receive of " + device_->name());
}

absl::Status VerbsReceives::PostAll() {
  while (!unposted_.empty()) {
    GEMEL_RETURN_IF_ERROR(Post(unposted_.back()));
    unposted_.pop_back();
  }
  return absl::OkStatus();
}

void VerbsReceives::Take(uint64_t slot) {
  GEMEL_CHECK(slot < slots() && !is_taken_[slot]) << "slot " << slot << " of " << slots();
  is_taken_[slot] = true;
  taken_ += 1;
}

absl::Status VerbsReceives::Return(uint64_t slot) {
  GEMEL_CHECK(slot < slots() && is_taken_[slot]) << "slot " << slot << " of " << slots();
  is_taken_[slot] = false;
  taken_ -= 1;
  unposted_.push_back(slot);
  return PostAll();
}

}  // namespace gemel
