// SPDX-License-Identifier: Apache-2.0
//
// ReferencedSend: long payloads over TCP without a copy: the pages they lie in go into a pipe
// (vmsplice) and from there to the socket (splice), and the kernel of this side copies nothing.
//
// It pays where others want the cores: two servers that exchange 1.5 GB on two cores take a fifth
// less CPU. Where cores are free it does not: by copy both sides' cores copy at once, by reference
// the receiver's alone, and a copy to one peer has 0.65 to 0.8 of the rate (docs/decisions/0020).
// So it is used while this thread waits for a core (transport/tcp/cpu_pressure.h), or always, or
// never.
//
// The bytes are read where they lie until the peer has them, also after Send() took them: they must
// stay as they are until it has answered.
//
// Thread safety: one loop's. splice() raises SIGPIPE when the peer is gone: the process ignores it.
// Errors: those of the socket. Where the kernel refuses pages or pipes it is never used again.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "common/bytes.h"
#include "common/time.h"
#include "transport/byte_stream.h"
#include "transport/descriptor.h"
#include "transport/tcp/cpu_pressure.h"

namespace gemel {

enum class SendByReference : uint8_t { kNever, kWhenContended, kAlways };

class ReferencedSend {
 public:
  explicit ReferencedSend(SendByReference when) : when_(when) {}

  bool Pays(TimePoint now);

  // Sends what fits of `pieces` in order: by copy those that are shorter than kReferencedBytesMin.
  // Nothing: it cannot be used, and nothing was sent.
  std::optional<IoResult> Send(int socket, std::span<const ByteSpan> pieces);

  uint64_t sent_bytes() const { return sent_bytes_; }

 private:
  bool OpenPipe();
  IoResult SendPages(int socket, ByteSpan bytes, bool more);
  void Drain(size_t bytes);

  SendByReference when_;
  CpuPressure pressure_;
  Descriptor pipe_in_;
  Descriptor pipe_out_;
  Descriptor nothing_;  // takes what the socket had no room for
  size_t pipe_bytes_ = 0;
  uint64_t sent_bytes_ = 0;
};

}  // namespace gemel
