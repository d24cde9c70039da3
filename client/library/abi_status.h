// SPDX-License-Identifier: Apache-2.0
//
// How the C ABI speaks: absl::Status to gemel_status, and the checks of what callers pass in.
//
// Thread safety: pure functions.
#pragma once

#include <cstring>
#include <string>

#include "absl/status/status.h"

#include "common/digest.h"
#include "common/ids.h"
#include "gemel/gemel.h"

namespace gemel {

// The message is the caller's, as gemel.h says.
gemel_status ToC(const absl::Status& status);

// InvalidArgument when `text`, called `what` in the message, is null or empty.
absl::Status RequireText(const char* text, const char* what);

// InvalidArgument when `size` is below what the first version of the structure `what` had.
absl::Status RequireSize(size_t size, size_t least, const char* what);

inline EpochId FromC(gemel_epoch epoch) { return {epoch.generation, epoch.counter}; }

inline gemel_epoch ToC(EpochId epoch) { return {epoch.generation, epoch.counter}; }

// What the caller gave, with zeros for fields that its version of the structure does not have.
// REQUIRES: RequireSize().
template <typename T>
T TakeIn(const T* given) {
  T taken{};
  std::memcpy(&taken, given, given->struct_bytes < sizeof(T) ? given->struct_bytes : sizeof(T));
  taken.struct_bytes = sizeof(T);
  return taken;
}

// Gives `result` to the caller's structure, as far as that one reaches. REQUIRES: RequireSize().
template <typename T>
void GiveOut(T result, T* out) {
  result.struct_bytes = out->struct_bytes;
  std::memcpy(out, &result, out->struct_bytes < sizeof(T) ? out->struct_bytes : sizeof(T));
}

}  // namespace gemel
