// SPDX-License-Identifier: Apache-2.0
//
// Early return on a failed absl::Status, in functions and in coroutines.
//
//   GEMEL_RETURN_IF_ERROR(Write(frame));
//   GEMEL_ASSIGN_OR_RETURN(Header header, DecodeHeader(bytes));
//   GEMEL_CO_RETURN_IF_ERROR(co_await session->Close());
//   GEMEL_CO_ASSIGN_OR_RETURN(Reply reply, co_await session->Call(request, deadline));
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define GEMEL_CONCAT_INNER_(a, b) a##b
#define GEMEL_CONCAT_(a, b) GEMEL_CONCAT_INNER_(a, b)

// A keyword and a declaration cannot be put into parentheses.
// NOLINTBEGIN(bugprone-macro-parentheses)
#define GEMEL_RETURN_IF_ERROR_IMPL_(keyword, expression)                       \
  do {                                                                         \
    ::absl::Status gemel_status_ = (expression);                               \
    if (!gemel_status_.ok()) keyword ::absl::Status(std::move(gemel_status_)); \
  } while (false)

#define GEMEL_ASSIGN_OR_RETURN_IMPL_(keyword, temporary, target, expression) \
  auto temporary = (expression);                                             \
  if (!temporary.ok()) keyword temporary.status();                           \
  target = std::move(temporary).value()
// NOLINTEND(bugprone-macro-parentheses)

#define GEMEL_RETURN_IF_ERROR(expression) GEMEL_RETURN_IF_ERROR_IMPL_(return, expression)
#define GEMEL_CO_RETURN_IF_ERROR(expression) GEMEL_RETURN_IF_ERROR_IMPL_(co_return, expression)
#define GEMEL_ASSIGN_OR_RETURN(target, expression) \
  GEMEL_ASSIGN_OR_RETURN_IMPL_(return, GEMEL_CONCAT_(gemel_value_, __LINE__), target, expression)
#define GEMEL_CO_ASSIGN_OR_RETURN(target, expression) \
  GEMEL_ASSIGN_OR_RETURN_IMPL_(co_return, GEMEL_CONCAT_(gemel_value_, __LINE__), target, expression)
