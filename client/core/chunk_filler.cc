// SPDX-License-Identifier: Apache-2.0
#include "client/core/chunk_filler.h"

#include <algorithm>

#include "common/check.h"
#include "common/copies.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel {

ChunkFiller::ChunkFiller(const std::vector<MutableByteSpan>& places, uint64_t bytes)
    : bytes_(bytes), digests_(ChunkCount(bytes)) {
  for (MutableByteSpan place : places) {
    for (size_t at = 0; at < place.size(); at += kChunkBytes) {
      chunks_.push_back(place.subspan(at, std::min<size_t>(kChunkBytes, place.size() - at)));
    }
  }
  GEMEL_CHECK_EQ(chunks_.size(), digests_.size());
}

absl::Status ChunkFiller::CheckNext(uint64_t offset, uint64_t size) const {
  if (offset != appended_) {
    return error::InvalidArgument(
        "{} bytes at offset {}, and {} were written so far: a shard is written front to back", size,
        offset, appended_);
  }
  if (size > bytes_ - appended_) {
    return error::InvalidArgument(
        "{} bytes at offset {} are more than the {} bytes the shard was opened with", size,
        appended_, bytes_);
  }
  return absl::OkStatus();
}

absl::Status ChunkFiller::AppendAt(uint64_t offset, ByteSpan source) {
  GEMEL_RETURN_IF_ERROR(CheckNext(offset, source.size()));
  return Append(source);
}

absl::Status ChunkFiller::AppendFrom(DeviceStream* device, uint64_t offset, ByteSpan source) {
  GEMEL_RETURN_IF_ERROR(CheckNext(offset, source.size()));
  absl::Status status = AppendPieces(device, source);
  device->Drain();
  return status;
}

absl::Status ChunkFiller::AppendPieces(DeviceStream* device, ByteSpan source) {
  const uint64_t begin = appended_;
  const uint64_t end = begin + source.size();
  uint64_t started = begin;
  for (size_t under_way = 0; appended_ < end; --under_way) {
    for (; started < end && under_way < DeviceStream::kUnderWayMax; ++under_way) {
      const MutableByteSpan piece = PieceAt(started, end);
      GEMEL_RETURN_IF_ERROR(device->Start(piece, source.data() + (started - begin)));
      started += piece.size();
    }
    GEMEL_RETURN_IF_ERROR(device->AwaitOldest());
    Landed(PieceAt(appended_, end));
  }
  return absl::OkStatus();
}

// What is copied at a time: to the end of the chunk, or of the source.
MutableByteSpan ChunkFiller::PieceAt(uint64_t at, uint64_t end) const {
  const MutableByteSpan rest = chunks_[at / kChunkBytes].subspan(at % kChunkBytes);
  return rest.first(std::min<uint64_t>(rest.size(), end - at));
}

void ChunkFiller::Landed(MutableByteSpan piece) {
  const auto chunk = static_cast<uint32_t>(appended_ / kChunkBytes);
  const size_t at = appended_ % kChunkBytes;
  CountCopied(piece.size());
  if (at == 0) {
    stream_.Reset();
  }
  stream_.Update(piece);
  appended_ += piece.size();
  if (at + piece.size() == chunks_[chunk].size()) {
    const Digest128 digest = stream_.Finish();
    Publish(chunk, digest);
  }
}

absl::Status ChunkFiller::Append(ByteSpan source) {
  GEMEL_RETURN_IF_ERROR(CheckNext(appended_, source.size()));
  while (!source.empty()) {
    source = source.subspan(AppendWithin(source));
  }
  return absl::OkStatus();
}

size_t ChunkFiller::AppendWithin(ByteSpan source) {
  const auto chunk = static_cast<uint32_t>(appended_ / kChunkBytes);
  const size_t at = appended_ % kChunkBytes;
  MutableByteSpan place = chunks_[chunk];
  const size_t size = std::min(source.size(), place.size() - at);
  CountCopied(size);  // on either way below
  if (at == 0 && size == place.size()) {
    const Digest128 digest = CopyAndDigest(place.data(), source.data(), size);
    appended_ += size;
    Publish(chunk, digest);
    return size;
  }
  if (at == 0) {
    stream_.Reset();
  }
  stream_.CopyAndUpdate(place.data() + at, source.data(), size);
  appended_ += size;
  if (at + size == place.size()) {
    const Digest128 digest = stream_.Finish();
    Publish(chunk, digest);
  }
  return size;
}

void ChunkFiller::Publish(uint32_t chunk, const Digest128& digest) {
  GEMEL_CHECK_EQ(chunk, filled_.load(std::memory_order_relaxed));
  digests_[chunk] = digest;
  filled_.store(chunk + 1, std::memory_order_release);
}

}  // namespace gemel
