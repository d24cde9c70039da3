// SPDX-License-Identifier: Apache-2.0
//
// Net: the transport contract below Session (DESIGN section 7). Four fabrics implement it: `local`
// (unix://path, with handles), `tcp` (tcp://127.0.0.1:port), `verbs` (verbs://10.0.0.1:port) and
// `sim` (sim://node/port). Lanes and our own congestion control take their places behind it later.
//
// Thread safety: one loop. Nothing here calls back from within a call made by the user.
// Completion: Send() returns at level LOCAL (the source may be reused). PLACED and VERIFIED are
// replies of the peer, which Session pairs up. COMMITTED is placement's word.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

#include "common/digest.h"
#include "common/task.h"
#include "common/time.h"
#include "common/xxh3.h"
#include "transport/frame.h"
#include "transport/host.h"

namespace gemel {

using Handles = std::vector<std::shared_ptr<SharedHandle>>;

// How the owner of a place takes it back. When Revoke() has returned nothing is written there any
// more: what has not yet arrived is read into scratch and dropped.
class Revocation {
 public:
  void Revoke() {
    revoked_ = true;
    if (fence_ != nullptr) {
      std::exchange(fence_, nullptr)();
    }
  }

  bool revoked() const { return revoked_; }

  // Of a writer that cannot ask before every byte: `fence` ends its writing, within Revoke().
  // Null: there is none any more. REQUIRES: not revoked.
  void SetFence(std::function<void()> fence) { fence_ = std::move(fence); }

 private:
  bool revoked_ = false;
  std::function<void()> fence_;
};

// Where the bytes of one payload go.
struct Placement {
  MutableByteSpan place;                             // empty: drop the payload
  std::shared_ptr<Revocation> revocation = nullptr;  // null: it is not taken back

  bool revoked() const { return revocation != nullptr && revocation->revoked(); }
};

struct OutgoingFrame {
  FrameHeader header;  // sizes, checksums and handle_count are filled in by the fabric
  std::string body;
  // Not copied: valid until Send() returns. Of a kWrite: unchanged until the peer has answered, as
  // it may be sent by reference (tcp/referenced_send.h); what changes arrives changed.
  ByteSpan payload;
  std::shared_ptr<const void> keep = nullptr;  // keeps `payload` alive if the caller goes away
  Handles handles;                             // local fabric only
  // True before the first byte left: it is not sent, Send() says Cancelled, the connection lives.
  std::shared_ptr<const bool> unwanted = nullptr;

  bool IsUnwanted() const { return unwanted != nullptr && *unwanted; }
};

// Of a payload that has landed: `landed` when it was hashed piece by piece meanwhile, each while it
// was in the cache; else its memory is hashed now.
inline Digest128 DigestOf(ByteSpan payload, const std::optional<Digest128>& landed) {
  return landed.has_value() ? *landed : Xxh3_128(payload);
}

struct IncomingFrame {
  FrameHeader header;
  std::string body;
  MutableByteSpan payload;          // at its place; empty when dropped
  std::optional<Digest128> landed;  // see DigestOf()
  bool payload_dropped = false;
  Handles handles;
};

// The user's side of a connection.
class ConnectionEvents {
 public:
  virtual ~ConnectionEvents() = default;
  // Header and body have arrived and match their checksums; a payload follows.
  virtual Placement PlacePayload(const FrameHeader& header, std::string_view body) = 0;
  virtual void OnFrame(IncomingFrame frame) = 0;
  // Once, last. Unavailable: the peer is gone; InvalidArgument: it sent garbage; else our own
  // Close().
  virtual void OnClosed(absl::Status why) = 0;
};

class Connection {
 public:
  // Closes without a further event.
  virtual ~Connection() = default;
  // `events` must outlive the connection or its Close(). Called once, before anything else.
  virtual void Start(ConnectionEvents* events) = 0;
  // Level LOCAL. Frames leave in the order of the calls. After an error the connection is closed,
  // except after Cancelled for a frame that was unwanted before it began to leave.
  virtual Task<absl::Status> Send(OutgoingFrame frame) = 0;

  // True: `frame` has reached LOCAL, and leaves with what else this turn of the loop sends. False:
  // it was not touched, because it is too large to be copied, carries handles, or others wait
  // before it: Send() it. A fabric need not have this.
  virtual bool TrySend(const OutgoingFrame& /*frame*/) { return false; }

  // Fails every Send() in progress; OnClosed(why) follows from the loop's queue.
  virtual void Close(absl::Status why) = 0;
  // For messages to people: "tcp://127.0.0.1:7611".
  virtual std::string peer() const = 0;
};

class Listener {
 public:
  // Stops listening; connections that were accepted live on.
  virtual ~Listener() = default;
  // With the port the system chose when 0 was asked for.
  virtual std::string address() const = 0;
};

class Net {
 public:
  using AcceptCallback = std::function<void(std::unique_ptr<Connection>)>;

  virtual ~Net() = default;
  // Unavailable, naming the address and the way out, when nobody listens there.
  // PermissionDenied for a tcp address beyond this machine: until TLS exists only loopback.
  virtual Task<absl::StatusOr<std::unique_ptr<Connection>>> Connect(std::string address,
                                                                    TimePoint deadline) = 0;

  // OK when somebody listens there; Unavailable, as Connect(), only when nobody does. Of a fabric
  // that this machine may lack, too.
  virtual Task<absl::Status> Probe(std::string address, TimePoint deadline) {
    const absl::StatusOr<std::unique_ptr<Connection>> connected =
        co_await Connect(std::move(address), deadline);
    co_return connected.status();
  }

  // AlreadyExists when the address is taken (says by what, where the system tells).
  virtual absl::StatusOr<std::unique_ptr<Listener>> Listen(std::string address,
                                                           AcceptCallback accept) = 0;

  // Memory that payloads come from and go to, present in whole, that stays as long as this and its
  // connections: a fabric may register it, and move them without a copy. It may take some
  // milliseconds.
  virtual void AddMemory(MutableByteSpan /*memory*/) {}
};

}  // namespace gemel
