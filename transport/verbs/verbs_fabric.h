// SPDX-License-Identifier: Apache-2.0
//
// The `verbs` fabric: connections of frames over RDMA. verbs://HOST:PORT is the address of a
// network device that an RDMA device is on; the address chooses the device, on both sides.
//
// Two sides find each other over TCP at that address, tell each other their queue pairs
// (docs/formats/verbs.md), and all frames go over these. RDMA is neither encrypted nor
// authenticated: the network of these addresses must be one that only the cluster is on.
//
// Thread safety: the loop's thread.
// Ownership: listeners, connections and every Connect() in progress may outlive it.
// Errors: Unavailable (no RDMA on this machine, nobody listens), NotFound (the address is of no
// RDMA device), ResourceExhausted (memory that may not be pinned), DeadlineExceeded, AlreadyExists.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "common/epoll_loop.h"
#include "common/events.h"
#include "transport/descriptor.h"
#include "transport/net.h"
#include "transport/verbs/verbs_calls.h"

namespace gemel {

struct VerbsOptions {
  const VerbsCalls* calls = nullptr;  // null: libibverbs, loaded at the first use
  uint32_t slots = 16;                // of a connection, in each direction
  uint32_t slot_bytes = 16 * kKiB;    // frames' heads, and payloads that go by copy
};

inline constexpr Duration kVerbsHelloWithin = 5s;
inline constexpr size_t kVerbsHellosMax = 64;  // of callers that have not said theirs

class VerbsFabric {
 public:
  // `events` may be null.
  VerbsFabric(EpollLoop* loop, EventSink* events, VerbsOptions options);

  Task<absl::StatusOr<std::unique_ptr<Connection>>> Connect(std::string host_and_port,
                                                            TimePoint deadline);
  // As Net: whoever asks need not have a device.
  Task<absl::Status> Probe(std::string host_and_port, TimePoint deadline);
  absl::StatusOr<std::unique_ptr<Listener>> Listen(const std::string& host_and_port,
                                                   Net::AcceptCallback accept);
  // As Net, for all devices, also those that are used later. What cannot be pinned is told once,
  // and copied.
  void AddMemory(MutableByteSpan memory);

 private:
  struct State;
  struct Callers;

  static Task<absl::StatusOr<std::unique_ptr<Connection>>> Answer(std::shared_ptr<State> state,
                                                                  Descriptor socket);
  // Hands out what Answer() makes while its listener is there.
  static Task<void> Admit(std::shared_ptr<State> state, std::weak_ptr<Callers> callers,
                          Descriptor socket);

  const std::shared_ptr<State> state_;  // with the callers that are being answered
};

}  // namespace gemel
