// SPDX-License-Identifier: Apache-2.0
#include "transport/real_net.h"

#include <string_view>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "transport/local/unix_socket.h"

namespace gemel {
namespace {

constexpr std::string_view kUnixScheme = "unix://";
constexpr std::string_view kTcpScheme = "tcp://";
constexpr std::string_view kVerbsScheme = "verbs://";

absl::Status UnknownScheme(std::string_view address) {
  return error::InvalidArgument(
      "'{}' is not an address: write unix://PATH, tcp://127.0.0.1:PORT or verbs://HOST:PORT",
      address);
}

}  // namespace

RealNet::RealNet(EpollLoop* loop, EventSink* events, Options options)
    : loop_(loop),
      events_(events),
      tcp_(loop, events, std::move(options.tcp)),
      verbs_(loop, events, options.verbs) {
  GEMEL_CHECK(loop_ != nullptr);
}

Task<absl::StatusOr<std::unique_ptr<Connection>>> RealNet::Connect(std::string address,
                                                                   TimePoint deadline) {
  if (address.starts_with(kUnixScheme)) {
    std::string path = address.substr(kUnixScheme.size());
    co_return co_await ConnectUnix(loop_, std::move(path), deadline);
  }
  if (address.starts_with(kTcpScheme)) {
    std::string host_and_port = address.substr(kTcpScheme.size());
    co_return co_await tcp_.Connect(std::move(host_and_port), deadline);
  }
  if (address.starts_with(kVerbsScheme)) {
    std::string host_and_port = address.substr(kVerbsScheme.size());
    co_return co_await verbs_.Connect(std::move(host_and_port), deadline);
  }
  co_return UnknownScheme(address);
}

Task<absl::Status> RealNet::Probe(std::string address, TimePoint deadline) {
  if (address.starts_with(kVerbsScheme)) {
    std::string host_and_port = address.substr(kVerbsScheme.size());
    co_return co_await verbs_.Probe(std::move(host_and_port), deadline);
  }
  co_return co_await Net::Probe(std::move(address), deadline);
}

void RealNet::AddMemory(MutableByteSpan memory) { verbs_.AddMemory(memory); }

absl::StatusOr<std::unique_ptr<Listener>> RealNet::Listen(std::string address,
                                                          AcceptCallback accept) {
  GEMEL_CHECK(accept != nullptr);
  if (address.starts_with(kUnixScheme)) {
    return ListenUnix(loop_, events_, address.substr(kUnixScheme.size()), std::move(accept));
  }
  if (address.starts_with(kTcpScheme)) {
    return tcp_.Listen(address.substr(kTcpScheme.size()), std::move(accept));
  }
  if (address.starts_with(kVerbsScheme)) {
    return verbs_.Listen(address.substr(kVerbsScheme.size()), std::move(accept));
  }
  return UnknownScheme(address);
}

}  // namespace gemel
