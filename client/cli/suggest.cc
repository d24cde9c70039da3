// SPDX-License-Identifier: Apache-2.0
#include "client/cli/suggest.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/check.h"

namespace gemel::cli {
namespace {

constexpr size_t kWordBytesMax = 128;  // longer ones are cut: the work grows with the square

}  // namespace

size_t EditDistance(std::string_view a, std::string_view b) {
  a = a.substr(0, kWordBytesMax);
  b = b.substr(0, kWordBytesMax);
  // Row i: distances of a's first i letters to all beginnings of b.
  std::vector<std::vector<size_t>> rows(a.size() + 1, std::vector<size_t>(b.size() + 1, 0));
  for (size_t j = 0; j <= b.size(); ++j) {
    rows[0][j] = j;
  }
  for (size_t i = 1; i <= a.size(); ++i) {
    rows[i][0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = rows[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      rows[i][j] = std::min({rows[i - 1][j] + 1, rows[i][j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        rows[i][j] = std::min(rows[i][j], rows[i - 2][j - 2] + 1);
      }
    }
  }
  const size_t distance = rows[a.size()][b.size()];
  GEMEL_CHECK_LE(distance, std::max(a.size(), b.size()));
  return distance;
}

std::string Nearest(std::string_view word, const std::vector<std::string>& known) {
  word = word.substr(0, kWordBytesMax);
  const size_t far = std::max<size_t>(1, word.size() / 3);
  std::string nearest;
  size_t least = far + 1;
  for (const std::string& one : known) {
    const size_t distance = EditDistance(word, one);
    if (distance < least) {
      least = distance;
      nearest = one;
    }
  }
  GEMEL_CHECK(nearest.empty() || least <= far) << nearest;
  return nearest;
}

std::string DidYouMean(std::string_view word, const std::vector<std::string>& known) {
  const std::string nearest = Nearest(word, known);
  return nearest.empty() || nearest == word ? "" : fmt::format(" (did you mean '{}'?)", nearest);
}

}  // namespace gemel::cli
