// SPDX-License-Identifier: Apache-2.0
//
// GEMEL_CHECK: assertions that stay on in release builds. A broken invariant ends the process with
// one line that names the place, the condition and the values; expected failure is an absl::Status.
//
//   GEMEL_CHECK(offset % kChunkBytes == 0) << "slab " << slab_id;
//   GEMEL_CHECK_LE(used_bytes, capacity_bytes);
//
// GEMEL_DCHECK is for loops that run per packet only; it vanishes with NDEBUG.
// Thread safety: any thread.
#pragma once

#include <sstream>

namespace gemel::internal {

// Collects the message of a failed check and aborts when it goes out of scope.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  CheckFailure(const CheckFailure&) = delete;
  CheckFailure& operator=(const CheckFailure&) = delete;
  [[noreturn]] ~CheckFailure();

  std::ostream& stream() { return message_; }

 private:
  std::ostringstream message_;
};

// Gives both arms of the conditional in GEMEL_CHECK the type void.
struct Voidify {
  void operator&(std::ostream&) const {}  // NOLINT(google-runtime-operator)
};

}  // namespace gemel::internal

#define GEMEL_CHECK(condition)                      \
  __builtin_expect(static_cast<bool>(condition), 1) \
      ? (void)0                                     \
      : ::gemel::internal::Voidify() &              \
            ::gemel::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()

#define GEMEL_CHECK_OP_(a, op, b) GEMEL_CHECK((a)op(b)) << " (" << (a) << " against " << (b) << ") "
#define GEMEL_CHECK_EQ(a, b) GEMEL_CHECK_OP_(a, ==, b)
#define GEMEL_CHECK_NE(a, b) GEMEL_CHECK_OP_(a, !=, b)
#define GEMEL_CHECK_LT(a, b) GEMEL_CHECK_OP_(a, <, b)
#define GEMEL_CHECK_LE(a, b) GEMEL_CHECK_OP_(a, <=, b)
#define GEMEL_CHECK_GT(a, b) GEMEL_CHECK_OP_(a, >, b)
#define GEMEL_CHECK_GE(a, b) GEMEL_CHECK_OP_(a, >=, b)

#ifdef NDEBUG
#define GEMEL_DCHECK(condition) GEMEL_CHECK(true || (condition))
#else
#define GEMEL_DCHECK(condition) GEMEL_CHECK(condition)
#endif
