// SPDX-License-Identifier: Apache-2.0
#include "transport/verbs/verbs_fabric.h"

#include <sys/epoll.h>

#include <array>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/errors.h"
#include "common/real_process.h"
#include "common/status_macros.h"
#include "transport/outcome.h"
#include "transport/socket_listener.h"
#include "transport/stream_connection.h"
#include "transport/stream_socket.h"
#include "transport/tcp/tcp_address.h"
#include "transport/tcp/tcp_socket.h"
#include "transport/verbs/verbs_hello.h"
#include "transport/verbs/verbs_stream.h"

namespace gemel {
namespace {

constexpr std::byte kReady{kVerbsVersion};

// As RoCE 2 names a device by its address.
ibv_gid GidOf(const TcpAddress& address) {
  ibv_gid gid{};
  if (address.storage.ss_family == AF_INET) {
    sockaddr_in v4{};
    std::memcpy(&v4, &address.storage, sizeof(v4));
    gid.raw[10] = gid.raw[11] = 0xFF;
    std::memcpy(&gid.raw[12], &v4.sin_addr, sizeof(v4.sin_addr));
  } else {
    sockaddr_in6 v6{};
    std::memcpy(&v6, &address.storage, sizeof(v6));
    std::memcpy(gid.raw, &v6.sin6_addr, sizeof(gid.raw));
  }
  return gid;
}

std::string NameOf(const TcpAddress& address) { return "verbs://" + address.HostAndPort(); }

absl::Status GaveUp(const std::string& peer) {
  return error::Unavailable("{} ended the connection before its hello", peer);
}

Task<absl::Status> ReceiveAll(EpollLoop* loop, int fd, MutableByteSpan into, std::string peer,
                              TimePoint deadline) {
  while (!into.empty()) {
    const IoResult got = ReceiveSome(fd, into, nullptr);
    if (got.error != 0 && !got.blocked()) {
      co_return StatusOfErrno(got.error, "receiving the hello of " + peer);
    }
    if (got.error == 0 && got.bytes == 0) {
      co_return GaveUp(peer);
    }
    into = into.subspan(got.bytes);
    if (got.error != 0) {
      const bool ready = co_await AwaitSocket(loop, fd, EPOLLIN, deadline);
      if (!ready) {
        co_return error::DeadlineExceeded("{} said no hello in time", peer);
      }
    }
  }
  co_return absl::OkStatus();
}

// Less than what a socket takes at once.
absl::Status SendAll(int fd, ByteSpan bytes, const std::string& peer) {
  const std::array<ByteSpan, 1> pieces = {bytes};
  const IoResult sent = SendSome(fd, pieces, {});
  if (sent.error != 0) {
    return StatusOfErrno(sent.error, "sending a hello to " + peer);
  }
  return sent.bytes == bytes.size() ? absl::OkStatus() : GaveUp(peer);
}

Task<absl::StatusOr<VerbsHello>> ReceiveHello(EpollLoop* loop, int fd, std::string peer,
                                              TimePoint deadline) {
  std::array<std::byte, kVerbsHelloBytes> bytes{};
  GEMEL_CO_RETURN_IF_ERROR(co_await ReceiveAll(loop, fd, bytes, peer, deadline));
  absl::StatusOr<VerbsHello> hello = DecodeVerbsHello(bytes);
  if (!hello.ok()) {
    co_return Annotate(hello.status(), peer);
  }
  co_return hello;
}

}  // namespace

struct VerbsFabric::State {
  State(EpollLoop* loop, EventSink* events, VerbsOptions options)
      : loop(loop), events(events), options(options) {}

  absl::StatusOr<std::shared_ptr<VerbsDevice>> DeviceAt(const TcpAddress& own);
  void AddMemory(VerbsDevice* device, MutableByteSpan added);
  // With its receives posted; for the side whose end of the TCP connection `socket` is.
  absl::StatusOr<std::unique_ptr<VerbsStream>> MakeStream(const Descriptor& socket,
                                                          const std::string& peer);

  std::unique_ptr<Connection> Wrap(std::unique_ptr<VerbsStream> stream, std::string peer) const {
    return std::make_unique<StreamConnection>(loop, std::move(stream), std::move(peer),
                                              StreamConnection::Carries::kBytes);
  }

  EpollLoop* const loop;
  EventSink* const events;
  const VerbsOptions options;
  std::map<std::string, std::shared_ptr<VerbsDevice>> devices;  // by address
  std::vector<MutableByteSpan> memory;                          // of AddMemory()
  bool unpinned = false;                                        // some could not be registered
};

// Of one listener, which holds them: those that are being answered when it goes find nobody.
struct VerbsFabric::Callers {
  Net::AcceptCallback accept;
  size_t waiting = 0;  // for their hellos
};

absl::StatusOr<std::shared_ptr<VerbsDevice>> VerbsFabric::State::DeviceAt(const TcpAddress& own) {
  const ibv_gid gid = GidOf(own);
  const std::string key(reinterpret_cast<const char*>(gid.raw), sizeof(gid.raw));
  if (const auto found = devices.find(key); found != devices.end()) {
    return found->second;
  }
  const VerbsCalls* calls = options.calls;
  if (calls == nullptr) {
    GEMEL_ASSIGN_OR_RETURN(calls, LoadVerbs());
  }
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<VerbsDevice> opened, VerbsDevice::OpenAt(calls, gid));
  for (const MutableByteSpan added : memory) {
    AddMemory(opened.get(), added);
  }
  return devices.emplace(key, std::move(opened)).first->second;
}

void VerbsFabric::State::AddMemory(VerbsDevice* device, MutableByteSpan added) {
  const absl::Status status = device->AddMemory(added);
  if (!status.ok() && !std::exchange(unpinned, true) && events != nullptr) {
    events->Emit(Severity::kWarning, "verbs_copies",
                 ToText(status) + "; payloads in memory that is not pinned are copied");
  }
}

absl::StatusOr<std::unique_ptr<VerbsStream>> VerbsFabric::State::MakeStream(
    const Descriptor& socket, const std::string& peer) {
  GEMEL_ASSIGN_OR_RETURN(std::shared_ptr<VerbsDevice> device, DeviceAt(OwnAddressOf(socket.get())));
  VerbsStream::Options wanted;
  wanted.slots = options.slots;
  wanted.slot_bytes = options.slot_bytes;
  wanted.first_packet = static_cast<uint32_t>(RealProcess().Entropy64());
  wanted.events = events;
  wanted.peer = peer;
  return VerbsStream::Make(loop, std::move(device), wanted);
}

VerbsFabric::VerbsFabric(EpollLoop* loop, EventSink* events, VerbsOptions options)
    : state_(std::make_shared<State>(loop, events, options)) {
  GEMEL_CHECK(loop != nullptr);
}

Task<absl::StatusOr<std::unique_ptr<Connection>>> VerbsFabric::Connect(std::string host_and_port,
                                                                       TimePoint deadline) {
  const std::shared_ptr<State> state = state_;
  GEMEL_CO_ASSIGN_OR_RETURN(const TcpAddress address, ParseTcpAddress(host_and_port));
  const std::string peer = NameOf(address);
  GEMEL_CO_ASSIGN_OR_RETURN(Descriptor unconnected, TcpSocket(address));
  GEMEL_CO_ASSIGN_OR_RETURN(
      Descriptor socket,
      co_await ConnectTcp(state->loop, std::move(unconnected), address, deadline));
  GEMEL_CO_ASSIGN_OR_RETURN(std::unique_ptr<VerbsStream> stream, state->MakeStream(socket, peer));
  const std::string own = EncodeVerbsHello(stream->hello());
  GEMEL_CO_RETURN_IF_ERROR(SendAll(socket.get(), AsBytes(own), peer));
  GEMEL_CO_ASSIGN_OR_RETURN(const VerbsHello theirs,
                            co_await ReceiveHello(state->loop, socket.get(), peer, deadline));
  GEMEL_CO_RETURN_IF_ERROR(stream->Connect(theirs));
  GEMEL_CO_RETURN_IF_ERROR(SendAll(socket.get(), {&kReady, 1}, peer));
  stream->Open(std::move(socket));
  co_return state->Wrap(std::move(stream), peer);
}

Task<absl::Status> VerbsFabric::Probe(std::string host_and_port, TimePoint deadline) {
  const std::shared_ptr<State> state = state_;
  GEMEL_CO_ASSIGN_OR_RETURN(const TcpAddress address, ParseTcpAddress(host_and_port));
  GEMEL_CO_ASSIGN_OR_RETURN(Descriptor unconnected, TcpSocket(address));
  const absl::StatusOr<Descriptor> connected =
      co_await ConnectTcp(state->loop, std::move(unconnected), address, deadline);
  co_return connected.status();
}

// Connected before it says its hello, so that what comes behind the caller's word finds it.
Task<absl::StatusOr<std::unique_ptr<Connection>>> VerbsFabric::Answer(std::shared_ptr<State> state,
                                                                      Descriptor socket) {
  const TimePoint deadline = Add(state->loop->Now(), kVerbsHelloWithin);
  const std::string peer = NameOf(PeerAddressOf(socket.get()));
  GEMEL_CO_ASSIGN_OR_RETURN(const VerbsHello theirs,
                            co_await ReceiveHello(state->loop, socket.get(), peer, deadline));
  GEMEL_CO_ASSIGN_OR_RETURN(std::unique_ptr<VerbsStream> stream, state->MakeStream(socket, peer));
  GEMEL_CO_RETURN_IF_ERROR(stream->Connect(theirs));
  const std::string own = EncodeVerbsHello(stream->hello());
  GEMEL_CO_RETURN_IF_ERROR(SendAll(socket.get(), AsBytes(own), peer));
  std::byte ready{};
  const MutableByteSpan word(&ready, 1);
  GEMEL_CO_RETURN_IF_ERROR(co_await ReceiveAll(state->loop, socket.get(), word, peer, deadline));
  if (ready != kReady) {
    co_return error::InvalidArgument("{} says {} where {} belongs", peer, static_cast<int>(ready),
                                     static_cast<int>(kReady));
  }
  stream->Open(std::move(socket));
  co_return state->Wrap(std::move(stream), peer);
}

Task<void> VerbsFabric::Admit(std::shared_ptr<State> state, std::weak_ptr<Callers> callers,
                              Descriptor socket) {
  absl::StatusOr<std::unique_ptr<Connection>> connection =
      co_await Answer(state, std::move(socket));
  const std::shared_ptr<Callers> present = callers.lock();
  if (present == nullptr) {
    co_return;  // the listener went meanwhile
  }
  GEMEL_CHECK_GT(present->waiting, 0U);
  present->waiting -= 1;
  if (connection.ok()) {
    present->accept(*std::move(connection));
  } else if (state->events != nullptr &&
             connection.status().code() != absl::StatusCode::kUnavailable) {  // a caller that left
    state->events->Emit(Severity::kWarning, "connection_refused", ToText(connection.status()));
  }
}

void VerbsFabric::AddMemory(MutableByteSpan memory) {
  GEMEL_CHECK(!memory.empty());
  state_->memory.push_back(memory);
  for (const auto& [address, device] : state_->devices) {
    state_->AddMemory(device.get(), memory);
  }
}

absl::StatusOr<std::unique_ptr<Listener>> VerbsFabric::Listen(const std::string& host_and_port,
                                                              Net::AcceptCallback accept) {
  GEMEL_ASSIGN_OR_RETURN(const TcpAddress address, ParseTcpAddress(host_and_port));
  GEMEL_RETURN_IF_ERROR(state_->DeviceAt(address).status());
  GEMEL_ASSIGN_OR_RETURN(Descriptor socket, TcpSocket(address));
  GEMEL_ASSIGN_OR_RETURN(Descriptor listening, ListenTcp(std::move(socket), address));
  auto callers = std::make_shared<Callers>();
  callers->accept = std::move(accept);
  SocketListener::Options options;
  options.address = NameOf(OwnAddressOf(listening.get()));
  options.taken = [state = state_, callers](Descriptor caller) -> absl::Status {
    if (callers->waiting >= kVerbsHellosMax) {
      return error::ResourceExhausted("{} callers have not said their hello yet", callers->waiting);
    }
    callers->waiting += 1;
    state->loop->Spawn(Admit(state, callers, std::move(caller)));
    return absl::OkStatus();
  };
  return std::make_unique<SocketListener>(state_->loop, state_->events, std::move(listening),
                                          std::move(options));
}

}  // namespace gemel
