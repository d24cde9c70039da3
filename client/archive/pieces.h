// SPDX-License-Identifier: Apache-2.0
//
// Boxes of one tensor, each kept row by row, and the tensor as one run of bytes.
//
// Elements of a box in their own order lie in rising order in the tensor too. So the part of a box
// that falls into a window [begin, end) of the tensor is one contiguous range of the box: a window
// of the tensor is assembled with one read from each box that it meets, each byte once.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "client/archive/layout.h"

namespace gemel::archive {

using Box = std::vector<Dim>;

// Elements of the box, and of the whole tensor. REQUIRES: as DecodeLayout() checks it; for the
// tensor, TensorElements() had a value.
uint64_t BoxElements(const Box& box);

// Elements of the tensor that `box` is of; nothing beyond 64 bits.
std::optional<uint64_t> TensorElements(const Box& box);

// Elements of `box` that lie before element `index` of the tensor (row by row).
// REQUIRES: index <= *TensorElements(box).
uint64_t ElementsBefore(const Box& box, uint64_t index);

// One run that is contiguous in the tensor and in the box, in elements.
struct Run {
  uint64_t tensor = 0;  // first element, of the whole tensor
  uint64_t box = 0;     // first element, of the box
  uint64_t count = 0;
};

// The runs of the elements [first, last) of the box, in rising order. REQUIRES: first <= last <=
// BoxElements(box).
void ForEachRun(const Box& box, uint64_t first, uint64_t last,
                const std::function<void(const Run&)>& run);

// DataLoss, naming `tensor` and what is wrong, unless the boxes cover the tensor exactly: every
// element in one of them. REQUIRES: not empty, all of one tensor, no box twice, no box without
// elements.
absl::Status CheckCover(const std::string& tensor, std::span<const Box> boxes);

}  // namespace gemel::archive
