// SPDX-License-Identifier: Apache-2.0
#include "transport/region.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "common/xxh3.h"

namespace gemel {

Grant RegionTable::Open(std::vector<MutableByteSpan> extents, uint64_t bytes,
                        const Incarnation& writer) {
  GEMEL_CHECK_GT(bytes, 0U);
  uint64_t held = 0;
  for (size_t i = 0; i < extents.size(); ++i) {
    const bool last = i + 1 == extents.size();
    GEMEL_CHECK(last || extents[i].size() % kChunkBytes == 0) << "extent " << i;
    held += extents[i].size();
  }
  GEMEL_CHECK_GE(held, bytes);
  Grant grant;
  grant.region = next_region_++;
  grant.generation = next_generation_++;
  grant.bytes = bytes;
  Region& region = regions_[grant.region];
  region.extents = std::move(extents);
  region.bytes = bytes;
  region.generation = grant.generation;
  region.writer = writer;
  region.slices.resize(ChunkCount(bytes));
  return grant;
}

absl::StatusOr<RegionTable::Region*> RegionTable::Find(uint64_t region, uint64_t generation) {
  const auto found = regions_.find(region);
  if (found == regions_.end()) {
    return error::NotFound("region {} is not open here: its grant ended or never was", region);
  }
  if (found->second.generation != generation) {
    return error::FailedPrecondition("region {} has generation {}; generation {} is fenced", region,
                                     found->second.generation, generation);
  }
  return &found->second;
}

absl::Status RegionTable::CheckSlice(const FrameHeader& header, const Region& region) {
  if (header.offset % kChunkBytes != 0 || header.offset >= region.bytes) {
    return error::InvalidArgument("offset {} is not that of a slice of region {} ({} bytes)",
                                  header.offset, header.region, region.bytes);
  }
  const uint64_t length = std::min(kChunkBytes, region.bytes - header.offset);
  if (header.payload_bytes != length) {
    return error::InvalidArgument("the slice at {} of region {} has {} bytes; {} were sent",
                                  header.offset, header.region, length, header.payload_bytes);
  }
  return absl::OkStatus();
}

RegionTable::Slice& RegionTable::SliceOf(const FrameHeader& header, Region* region) {
  const uint64_t index = header.offset / kChunkBytes;
  GEMEL_CHECK_LT(index, region->slices.size());
  return region->slices[index];
}

MutableByteSpan RegionTable::SpanOf(const Region& region, uint64_t offset, uint64_t length) {
  for (const MutableByteSpan& extent : region.extents) {
    if (offset < extent.size()) {
      // A slice never crosses extents: all but the last are whole chunks.
      GEMEL_CHECK_LE(length, extent.size() - offset);
      return extent.subspan(offset, length);
    }
    offset -= extent.size();
  }
  GEMEL_CHECK(false) << "offset " << offset << " is beyond the extents";
  return {};
}

void RegionTable::SetCredit(uint64_t region, uint32_t slices) {
  const auto found = regions_.find(region);
  GEMEL_CHECK(found != regions_.end()) << "region " << region;
  found->second.credit = slices;
}

// Empties a slice that is placing.
void RegionTable::Revoke(Region* region, Slice* slice) {
  GEMEL_CHECK(slice->state == SliceState::kPlacing && slice->revocation != nullptr);
  GEMEL_CHECK_GT(region->taken, 0U);
  region->taken -= 1;
  std::exchange(slice->revocation, nullptr)->Revoke();
  slice->lane = nullptr;
  slice->state = SliceState::kEmpty;
}

absl::StatusOr<Placement> RegionTable::BeginPlacing(const FrameHeader& header,
                                                    const Arrival& arrival) {
  GEMEL_ASSIGN_OR_RETURN(Region * region, Find(header.region, header.generation));
  if (!region->writer.IsZero() && region->writer != arrival.writer) {
    return error::PermissionDenied("region {} was granted to another server", header.region);
  }
  GEMEL_RETURN_IF_ERROR(CheckSlice(header, *region));
  Slice& slice = SliceOf(header, region);
  switch (slice.state) {
    case SliceState::kPlacing:
      if (!arrival.again || slice.lane == arrival.lane) {
        return error::Unavailable("the slice at {} of region {} is being placed by another lane",
                                  header.offset, header.region);
      }
      Sometimes(Situation::kSliceTakenOver);
      Revoke(region, &slice);
      break;
    case SliceState::kPlaced:
    case SliceState::kSealed:
      return error::AlreadyExists("the slice at {} of region {} is placed already", header.offset,
                                  header.region);
    case SliceState::kEmpty:
      break;
  }
  if (region->taken >= region->credit) {
    return error::ResourceExhausted("region {} takes {} slices for now; one more was sent",
                                    header.region, region->credit);
  }
  region->taken += 1;
  slice.state = SliceState::kPlacing;
  slice.lane = arrival.lane;
  slice.revocation = std::make_shared<Revocation>();
  return Placement{SpanOf(*region, header.offset, header.payload_bytes), slice.revocation};
}

absl::Status RegionTable::FinishPlacing(const FrameHeader& header, const Digest128& expected,
                                        const void* lane, const std::optional<Digest128>& landed) {
  GEMEL_ASSIGN_OR_RETURN(Region * region, Find(header.region, header.generation));
  GEMEL_RETURN_IF_ERROR(CheckSlice(header, *region));
  Slice& slice = SliceOf(header, region);
  if (slice.state != SliceState::kPlacing || slice.lane != lane) {
    return error::FailedPrecondition(
        "the slice at {} of region {} is not being placed by this session", header.offset,
        header.region);
  }
  const ByteSpan placed = SpanOf(*region, header.offset, header.payload_bytes);
  const Digest128 found = DigestOf(placed, landed);
  slice.lane = nullptr;
  slice.revocation = nullptr;
  if (found != expected) {
    slice.state = SliceState::kEmpty;
    region->taken -= 1;
    corrupt_slices_ += 1;
    return error::DataLoss(
        "the slice at {} of region {} has digest {} where {} was sent: send again", header.offset,
        header.region, ToHex(found), ToHex(expected));
  }
  slice.state = SliceState::kPlaced;
  slice.digest = found;
  return absl::OkStatus();
}

void RegionTable::AbandonLane(const void* lane) {
  for (auto& [id, region] : regions_) {
    for (Slice& slice : region.slices) {
      if (slice.state == SliceState::kPlacing && slice.lane == lane) {
        Revoke(&region, &slice);
      }
    }
  }
}

absl::StatusOr<RegionTable::Closed> RegionTable::Close(uint64_t region, uint64_t generation) {
  GEMEL_ASSIGN_OR_RETURN(Region * closing, Find(region, generation));
  Closed closed;
  for (Slice& slice : closing->slices) {
    if (slice.state == SliceState::kPlacing) {
      Revoke(closing, &slice);
    }
    if (slice.state == SliceState::kPlaced) {
      slice.state = SliceState::kSealed;
      closed.digests.push_back(slice.digest);
    } else {
      closed.missing += 1;
    }
  }
  closed.complete = closed.missing == 0;
  if (!closed.complete) {
    closed.digests.clear();
  }
  regions_.erase(region);
  return closed;
}

bool RegionTable::IsOpen(uint64_t region, uint64_t generation) const {
  const auto found = regions_.find(region);
  return found != regions_.end() && found->second.generation == generation;
}

absl::StatusOr<SliceState> RegionTable::StateOf(uint64_t region, uint64_t offset) const {
  const auto found = regions_.find(region);
  if (found == regions_.end() || offset >= found->second.bytes) {
    return error::NotFound("region {} has no slice at {} here", region, offset);
  }
  return found->second.slices[offset / kChunkBytes].state;
}

}  // namespace gemel
