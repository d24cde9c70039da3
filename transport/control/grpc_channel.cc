// SPDX-License-Identifier: Apache-2.0
#include "transport/control/grpc_channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>

#include <algorithm>
#include <condition_variable>
#include <optional>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "common/sync.h"
#include "transport/control/grpc_address.h"
#include "transport/control/grpc_message.h"
#include "transport/control/grpc_status.h"

namespace gemel {
namespace {

constexpr int kReconnectBackoffMinMs = 100;
constexpr int kReconnectBackoffMaxMs = 1000;
// What one attempt to connect may take; a busy host needs more than the shortest backoff.
constexpr int kConnectTimeoutMs = 1000;
// gRPC's own words for a connection that never came about, several layers deep.
constexpr std::string_view kNoConnection = "failed to connect";

grpc::ChannelArguments Arguments() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectBackoffMinMs);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectTimeoutMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectBackoffMaxMs);
  // An unknown outcome is re-read by logic, never reissued below it.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  // A proxy of the environment has no business between processes of one machine.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(static_cast<int>(kRpcMessageBytesMax));
  arguments.SetMaxSendMessageSize(static_cast<int>(kRpcMessageBytesMax));
  return arguments;
}

gpr_timespec DeadlineIn(Duration left) {
  const gpr_timespec span =
      gpr_time_from_nanos(std::max(left, Duration::zero()).count(), GPR_TIMESPAN);
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), span);
}

absl::StatusOr<std::string> ResultOf(const grpc::Status& status, const grpc::ByteBuffer& response) {
  if (!status.ok()) {
    return FromPeer(FromGrpc(status));
  }
  std::optional<std::string> bytes = FromByteBuffer(response);
  if (!bytes.has_value()) {
    return error::Internal("gRPC cannot unpack the {} bytes of a reply", response.Length());
  }
  return *std::move(bytes);
}

}  // namespace

// What the channel, its calls and gRPC's threads share: the way to the loop, closed when the
// channel goes, and the list of calls.
struct GrpcChannel::Core {
  Core(Loop* loop, GrpcPeer peer, std::shared_ptr<grpc::Channel> channel)
      : peer(std::move(peer)), channel(std::move(channel)), loop_(loop) {}

  // Any thread: dropped once the channel is closed.
  void Post(Loop::Callback callback) {
    MutexLock lock(&mutex_);
    if (loop_ != nullptr) {
      loop_->PostFromAnyThread(std::move(callback));
    }
  }

  // Null when the channel is closed.
  Loop* loop() {
    MutexLock lock(&mutex_);
    return loop_;
  }

  void Close() {
    MutexLock lock(&mutex_);
    loop_ = nullptr;
  }

  void CountWire() {
    MutexLock lock(&mutex_);
    wires_ += 1;
  }

  void UncountWire() {
    MutexLock lock(&mutex_);
    GEMEL_CHECK_GT(wires_, 0U);
    wires_ -= 1;
    wires_gone_.notify_all();
  }

  void WaitForWires() {
    MutexLock lock(&mutex_);
    while (wires_ > 0) {
      wires_gone_.wait(mutex_);
    }
  }

  bool to_placement() const { return peer.service == kPlacementService; }

  const GrpcPeer peer;
  // The loop's: gRPC must not lose its last reference to a channel in one of its own threads,
  // because that thread would then take down the queue that it runs on.
  std::shared_ptr<grpc::Channel> channel;
  // The loop's.
  uint64_t next_call = 1;
  std::map<uint64_t, std::shared_ptr<Pending>> pending;

 private:
  Mutex mutex_;
  std::condition_variable_any wires_gone_;
  Loop* loop_ GEMEL_GUARDED_BY(mutex_);
  size_t wires_ GEMEL_GUARDED_BY(mutex_) = 0;
};

// Counts one Wire from before its first member is made until after its last is gone.
struct GrpcChannel::CountedCore {
  explicit CountedCore(std::shared_ptr<Core> core) : core(std::move(core)) {
    this->core->CountWire();
  }

  CountedCore(const CountedCore&) = delete;
  CountedCore& operator=(const CountedCore&) = delete;

  ~CountedCore() { core->UncountWire(); }

  const std::shared_ptr<Core> core;
};

// gRPC's part of one call: alive until its callback has run.
struct GrpcChannel::Wire {
  explicit Wire(std::shared_ptr<Core> core) : counted(std::move(core)) {}

  const CountedCore counted;  // first, so that it goes last
  grpc::ClientContext context;
  grpc::ByteBuffer request;
  grpc::ByteBuffer response;
};

// The loop's part of one call.
struct GrpcChannel::Pending {
  explicit Pending(Loop* loop) : result(loop) {}

  OneShot<absl::StatusOr<std::string>> result;
  std::weak_ptr<Wire> wire;

  void Cancel() {
    if (std::shared_ptr<Wire> alive = wire.lock()) {
      alive->context.TryCancel();
    }
  }
};

absl::StatusOr<std::unique_ptr<GrpcChannel>> GrpcChannel::Create(Loop* loop,
                                                                 std::string_view address) {
  GrpcPeer peer;
  peer.address = address;
  peer.service = kPlacementService;
  return Create(loop, std::move(peer));
}

absl::StatusOr<std::unique_ptr<GrpcChannel>> GrpcChannel::Create(Loop* loop, GrpcPeer peer) {
  GEMEL_CHECK(loop != nullptr);
  std::string target = peer.address;
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  if (peer.tls.has_value()) {
    GEMEL_RETURN_IF_ERROR(CheckFarAddress(peer.address));
    credentials =
        grpc::SslCredentials({peer.tls->authorities, peer.tls->key, peer.tls->certificate});
  } else {
    GEMEL_ASSIGN_OR_RETURN(const GrpcAddress parsed, ParseGrpcAddress(peer.address));
    peer.address = parsed.ToString();
    target = parsed.Target();
    credentials = grpc::InsecureChannelCredentials();
  }
  std::shared_ptr<grpc::Channel> channel =
      grpc::CreateCustomChannel(target, credentials, Arguments());
  auto core = std::make_shared<Core>(loop, std::move(peer), std::move(channel));
  return std::unique_ptr<GrpcChannel>(new GrpcChannel(std::move(core)));
}

GrpcChannel::GrpcChannel(std::shared_ptr<Core> core) : core_(std::move(core)) {}

GrpcChannel::~GrpcChannel() {
  core_->Close();
  for (const auto& [number, pending] : std::exchange(core_->pending, {})) {
    pending->Cancel();
    pending->result.Set(error::Cancelled("the channel to {} was closed", address()));
  }
  core_->WaitForWires();
  core_->channel.reset();
}

std::string GrpcChannel::address() const { return core_->peer.address; }

void GrpcChannel::Begin(const std::shared_ptr<Core>& core, const std::shared_ptr<Pending>& pending,
                        const std::string& method, const std::string& request, Duration left) {
  auto wire = std::make_shared<Wire>(core);
  wire->context.set_deadline(DeadlineIn(left));
  wire->context.set_wait_for_ready(false);
  for (const auto& [name, value] : core->peer.metadata) {
    wire->context.AddMetadata(name, value);
  }
  wire->request = ToByteBuffer(request);
  pending->wire = wire;
  auto done = [wire, weak = std::weak_ptr(pending)](const grpc::Status& status) {
    absl::StatusOr<std::string> result = ResultOf(status, wire->response);
    wire->counted.core->Post([weak, result = std::move(result)]() mutable {
      if (std::shared_ptr<Pending> alive = weak.lock()) {
        alive->result.Set(std::move(result));
      }
    });
  };
  grpc::GenericStub stub(core->channel);
  const std::string path = MethodPath(core->peer.service, method);
  stub.UnaryCall(&wire->context, path, grpc::StubOptions(), &wire->request, &wire->response,
                 std::move(done));
}

// Cancels a call whose coroutine ends before its answer, and takes it off the channel's list.
struct GrpcChannel::PendingGuard {
  std::shared_ptr<Core> core;
  std::shared_ptr<Pending> pending;
  uint64_t number;

  PendingGuard(std::shared_ptr<Core> core, std::shared_ptr<Pending> pending)
      : core(std::move(core)), pending(std::move(pending)), number(this->core->next_call++) {
    this->core->pending.emplace(number, this->pending);
  }

  PendingGuard(const PendingGuard&) = delete;
  PendingGuard& operator=(const PendingGuard&) = delete;

  ~PendingGuard() {
    core->pending.erase(number);
    if (!pending->result.is_set()) {
      pending->Cancel();
    }
  }
};

namespace {

// What gRPC says of a connection names neither the call nor its unknown outcome.
absl::Status Explain(const absl::Status& status, std::string_view method,
                     const std::string& address) {
  if (WasNeverSent(status)) {
    return NotExecuted(error::Unavailable(
        "no gemel-placement answers at {} ({}); `gemel up --placement` starts it again, nothing is "
        "lost",
        address, method));
  }
  if (status.code() == absl::StatusCode::kUnavailable ||
      status.code() == absl::StatusCode::kDeadlineExceeded) {
    return Annotate(status, fmt::format("{} at {}", method, address));
  }
  return status;
}

}  // namespace

bool WasNeverSent(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable &&
         MessageOf(status).starts_with(kNoConnection);
}

Task<absl::StatusOr<std::string>> GrpcChannel::Call(std::string method, std::string request,
                                                    TimePoint deadline) {
  GEMEL_CHECK(deadline != kTimeNever) << method << " without a deadline";
  return RunCall(core_, std::move(method), std::move(request), deadline);
}

Task<absl::StatusOr<std::string>> GrpcChannel::RunCall(std::shared_ptr<Core> core,
                                                       std::string method, std::string request,
                                                       TimePoint deadline) {
  Loop* const loop = core->loop();
  const std::string address = core->peer.address;
  if (loop == nullptr) {
    co_return error::Cancelled("the channel to {} was closed", address);
  }
  GEMEL_CHECK(loop->OnLoopThread());
  if (request.size() > kRpcMessageBytesMax) {
    co_return error::ResourceExhausted(
        "the request of {} has {} bytes; at most {} fit in one message", method, request.size(),
        kRpcMessageBytesMax);
  }
  auto pending = std::make_shared<Pending>(loop);
  PendingGuard guard(core, pending);
  Begin(core, pending, method, request, deadline - loop->Now());
  const bool answered = co_await pending->result.WaitUntil(deadline);
  if (!answered) {
    co_return error::DeadlineExceeded("{} at {}: no answer by the deadline, the outcome is unknown",
                                      method, address);
  }
  if (!pending->result.value().ok() && core->to_placement()) {
    co_return Explain(pending->result.value().status(), method, address);
  }
  co_return std::move(pending->result.value());
}

absl::StatusOr<std::unique_ptr<FailoverChannel>> ConnectToPlacement(Loop* loop,
                                                                    const std::string& addresses) {
  GEMEL_ASSIGN_OR_RETURN(const std::vector<std::string> split, SplitAddresses(addresses));
  std::vector<std::unique_ptr<RpcChannel>> channels;
  for (const std::string& address : split) {
    GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<GrpcChannel> channel,
                           GrpcChannel::Create(loop, address));
    channels.push_back(std::move(channel));
  }
  return std::make_unique<FailoverChannel>(loop, std::move(channels));
}

}  // namespace gemel
