// SPDX-License-Identifier: Apache-2.0
#include "client/archive/tensor_window.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "common/status_macros.h"

namespace gemel::archive {
namespace {

// The part of one piece that falls into the window.
struct Part {
  const PieceSource* piece = nullptr;
  uint64_t first = 0;  // elements of the box
  uint64_t last = 0;
  size_t staged = 0;  // where it begins in staged_
};

// Where [first, last) of the box begins in the tensor when it is one run there.
std::optional<uint64_t> OneRun(const Box& box, uint64_t first, uint64_t last) {
  uint64_t begin = 0;
  uint64_t end = 0;
  ForEachRun(box, first, first + 1, [&](const Run& run) { begin = run.tensor; });
  ForEachRun(box, last - 1, last, [&](const Run& run) { end = run.tensor + 1; });
  return end - begin == last - first ? std::optional(begin) : std::nullopt;
}

}  // namespace

void Scatter(const Box& box, uint64_t first, uint64_t last, uint64_t item, ByteSpan piece,
             uint64_t window_first, MutableByteSpan window) {
  GEMEL_CHECK_EQ(piece.size(), (last - first) * item);
  ForEachRun(box, first, last, [&](const Run& run) {
    const MutableByteSpan to = window.subspan((run.tensor - window_first) * item, run.count * item);
    const ByteSpan from = piece.subspan((run.box - first) * item, run.count * item);
    std::memcpy(to.data(), from.data(), from.size());
  });
}

void Gather(const Box& box, uint64_t first, uint64_t last, uint64_t item, MutableByteSpan piece,
            uint64_t window_first, ByteSpan window) {
  GEMEL_CHECK_EQ(piece.size(), (last - first) * item);
  ForEachRun(box, first, last, [&](const Run& run) {
    const ByteSpan from = window.subspan((run.tensor - window_first) * item, run.count * item);
    const MutableByteSpan to = piece.subspan((run.box - first) * item, run.count * item);
    std::memcpy(to.data(), from.data(), from.size());
  });
}

absl::StatusOr<ByteSpan> WindowReader::Read(SnapshotSource* source, const TensorSource& tensor,
                                            uint64_t first, uint64_t last) {
  GEMEL_CHECK_LT(first, last) << tensor.name;
  const uint64_t item = ItemBytes(tensor.dtype);
  window_.resize((last - first) * item);
  std::vector<Part> parts;
  std::vector<Range> ranges;
  uint64_t covered = 0;
  size_t staged = 0;
  for (const PieceSource& piece : tensor.pieces) {
    Part part{&piece, ElementsBefore(piece.box, first), ElementsBefore(piece.box, last), staged};
    if (part.first == part.last) {
      continue;
    }
    const uint64_t bytes = (part.last - part.first) * item;
    Range range{piece.shard, piece.data_offset + part.first * item, bytes, nullptr};
    covered += part.last - part.first;
    if (const auto begins = OneRun(piece.box, part.first, part.last); begins.has_value()) {
      range.destination = window_.data() + (*begins - first) * item;
    } else {
      staged += bytes;
      parts.push_back(part);
    }
    ranges.push_back(range);
  }
  GEMEL_CHECK_EQ(covered, last - first) << tensor.name;
  staged_.resize(staged);
  size_t next = 0;
  for (Range& range : ranges) {
    if (range.destination == nullptr) {
      range.destination = staged_.data() + parts[next++].staged;
    }
  }
  GEMEL_CHECK_EQ(next, parts.size());
  GEMEL_RETURN_IF_ERROR(source->Read(ranges));
  for (const Part& part : parts) {
    const ByteSpan piece = ByteSpan(staged_).subspan(part.staged, (part.last - part.first) * item);
    Scatter(part.piece->box, part.first, part.last, item, piece, first, window_);
  }
  return ByteSpan(window_);
}

}  // namespace gemel::archive
