// SPDX-License-Identifier: Apache-2.0
//
// What somebody may have meant who mistyped a command, a flag, a job or a step.
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace gemel::cli {

// How many letters must be put in, taken out, replaced or swapped with their neighbour to turn one
// word into the other (the optimal string alignment distance).
size_t EditDistance(std::string_view a, std::string_view b);

// The nearest of `known`, the first of equals; empty when none is nearer than a third of the word's
// letters, and at least one.
std::string Nearest(std::string_view word, const std::vector<std::string>& known);

// " (did you mean 'gpt'?)", or nothing.
std::string DidYouMean(std::string_view word, const std::vector<std::string>& known);

}  // namespace gemel::cli
