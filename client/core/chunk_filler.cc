// SPDX-License-Identifier: Apache-2.0
#include "client/core/chunk_filler.h"

#include <algorithm>

#include "common/check.h"
#include "common/copies.h"
#include "common/errors.h"

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

absl::Status ChunkFiller::AppendAt(uint64_t offset, ByteSpan source) {
  if (offset != appended_) {
    return error::InvalidArgument(
        "{} bytes at offset {}, and {} were written so far: a shard is written front to back",
        source.size(), offset, appended_);
  }
  return Append(source);
}

absl::Status ChunkFiller::Append(ByteSpan source) {
  if (source.size() > bytes_ - appended_) {
    return error::InvalidArgument(
        "{} bytes at offset {} are more than the {} bytes the shard was opened with", source.size(),
        appended_, bytes_);
  }
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
