// SPDX-License-Identifier: Apache-2.0
#include "client/archive/pieces.h"

#include <algorithm>
#include <optional>

#include "common/check.h"
#include "common/errors.h"

namespace gemel::archive {
namespace {

// Elements of the tensor (of the box, when `of_box`) below one step of each dimension.
std::vector<uint64_t> Strides(const Box& box, bool of_box) {
  std::vector<uint64_t> strides(box.size(), 1);
  for (size_t i = box.size(); i-- > 1;) {
    strides[i - 1] = strides[i] * (of_box ? box[i].size : box[i].full);
  }
  return strides;
}

bool Meet(const Box& a, const Box& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].offset + a[i].size <= b[i].offset || b[i].offset + b[i].size <= a[i].offset) {
      return false;
    }
  }
  return true;
}

using BoxList = std::vector<const Box*>;

// The number of boxes on the near side of the plane across `dim` that cuts no box and is nearest to
// the middle; 0 when every plane cuts one. Sorts `boxes` along `dim`.
size_t FindCut(std::span<const Box*> boxes, size_t dim) {
  std::sort(boxes.begin(), boxes.end(),
            [dim](const Box* a, const Box* b) { return (*a)[dim].offset < (*b)[dim].offset; });
  size_t best = 0;
  uint64_t end = 0;
  const size_t middle = boxes.size() / 2;
  const auto distance = [middle](size_t at) { return at > middle ? at - middle : middle - at; };
  for (size_t i = 0; i < boxes.size(); ++i) {
    const Dim& place = (*boxes[i])[dim];
    if (i > 0 && place.offset >= end && (best == 0 || distance(i) < distance(best))) {
      best = i;
    }
    end = std::max(end, place.offset + place.size);
  }
  return best;
}

// Two boxes that meet, or nothing. Boxes of a sharding are told apart by planes (a plane cuts none
// of them), in O(n log² n); only what no plane divides is compared pair by pair.
std::optional<std::pair<const Box*, const Box*>> FindMeeting(BoxList boxes) {
  std::vector<std::span<const Box*>> groups = {std::span(boxes)};
  while (!groups.empty()) {
    const std::span<const Box*> group = groups.back();
    groups.pop_back();
    size_t cut = 0;
    for (size_t dim = 0; cut == 0 && group.size() > 1 && dim < group[0]->size(); ++dim) {
      cut = FindCut(group, dim);
    }
    if (cut > 0) {
      groups.push_back(group.first(cut));
      groups.push_back(group.subspan(cut));
      continue;
    }
    for (size_t i = 0; i < group.size(); ++i) {
      for (size_t k = i + 1; k < group.size(); ++k) {
        if (Meet(*group[i], *group[k])) {
          return std::pair(group[i], group[k]);
        }
      }
    }
  }
  return std::nullopt;
}

std::string BoxText(const Box& box) {
  std::string text = "[";
  for (const Dim& dim : box) {
    text += fmt::format("{}{}:{}", text.size() > 1 ? ", " : "", dim.offset, dim.offset + dim.size);
  }
  return text + "]";
}

}  // namespace

uint64_t BoxElements(const Box& box) {
  uint64_t count = 1;
  for (const Dim& dim : box) {
    GEMEL_CHECK(!__builtin_mul_overflow(count, dim.size, &count));
  }
  return count;
}

std::optional<uint64_t> TensorElements(const Box& box) {
  std::vector<uint64_t> sizes;
  for (const Dim& dim : box) {
    sizes.push_back(dim.full);
  }
  return Product(sizes);
}

uint64_t ElementsBefore(const Box& box, uint64_t index) {
  const std::vector<uint64_t> tensor = Strides(box, false);
  const std::vector<uint64_t> own = Strides(box, true);
  uint64_t before = 0;
  for (size_t i = 0; i < box.size(); ++i) {
    const uint64_t place = index / tensor[i];
    index %= tensor[i];
    if (place < box[i].offset) {
      return before;
    }
    if (place >= box[i].offset + box[i].size) {
      return before + box[i].size * own[i];
    }
    before += (place - box[i].offset) * own[i];
  }
  // A scalar has no dimension in which to be before; its one element is before index 1 only.
  return box.empty() ? std::min<uint64_t>(index, 1) : before;
}

void ForEachRun(const Box& box, uint64_t first, uint64_t last,
                const std::function<void(const Run&)>& run) {
  GEMEL_CHECK(first <= last && last <= BoxElements(box)) << first << " " << last;
  // Dimensions from `inner` on are one run in both.
  size_t inner = box.empty() ? 0 : box.size() - 1;
  while (inner > 0 && box[inner].size == box[inner].full) {
    --inner;
  }
  const std::vector<uint64_t> tensor = Strides(box, false);
  const std::vector<uint64_t> own = Strides(box, true);
  const uint64_t run_elements = box.empty() ? 1 : box[inner].size * own[inner];
  for (uint64_t at = first; at < last;) {
    const uint64_t count = std::min(last - at, run_elements - at % run_elements);
    uint64_t rest = at;
    uint64_t place = 0;
    for (size_t i = 0; i < box.size(); ++i) {
      place += (box[i].offset + rest / own[i]) * tensor[i];
      rest %= own[i];
    }
    run({place, at, count});
    at += count;
  }
}

absl::Status CheckCover(const std::string& tensor, std::span<const Box> boxes) {
  GEMEL_CHECK(!boxes.empty()) << tensor;
  const std::optional<uint64_t> elements = TensorElements(boxes[0]);
  if (!elements.has_value()) {
    return error::DataLoss("tensor '{}' has more elements than 64 bits hold", tensor);
  }
  uint64_t covered = 0;
  BoxList list;
  for (const Box& box : boxes) {
    GEMEL_CHECK_EQ(box.size(), boxes[0].size());
    covered += BoxElements(box);
    list.push_back(&box);
  }
  if (const auto meeting = FindMeeting(std::move(list)); meeting.has_value()) {
    return error::DataLoss("tensor '{}': the pieces {} and {} overlap", tensor,
                           BoxText(*meeting->first), BoxText(*meeting->second));
  }
  if (covered != *elements) {
    return error::DataLoss("tensor '{}': the saved pieces cover {} of {} elements", tensor, covered,
                           *elements);
  }
  return absl::OkStatus();
}

}  // namespace gemel::archive
