// SPDX-License-Identifier: Apache-2.0
//
// EventSink: where parts say what happened. Production writes them to the log and counts them; the
// simulator keeps them as the node's time line.
#pragma once

#include <string>
#include <string_view>

namespace gemel {

enum class Severity { kInfo, kWarning, kError };

class EventSink {
 public:
  virtual ~EventSink() = default;
  // `name` is a fixed word for machines ("chunk_corrupt"), `text` a sentence for people.
  virtual void Emit(Severity severity, std::string_view name, std::string text) = 0;
};

}  // namespace gemel
