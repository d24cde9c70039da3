// SPDX-License-Identifier: Apache-2.0
#include "client/library/runtime.h"

#include <algorithm>

#include "common/scheduling.h"
#include "transport/local/real_host.h"
#include "transport/real_net.h"

namespace gemel {
namespace {

constexpr int64_t kTimeoutMsMax = int64_t{30} * 24 * 3600 * 1000;

Task<absl::StatusOr<bool>> WithValue(std::function<Task<absl::Status>()> make) {
  absl::Status status = co_await make();
  if (!status.ok()) {
    co_return status;
  }
  co_return true;
}

}  // namespace

Duration ClampTimeout(int64_t timeout_ms) {
  return std::chrono::milliseconds(std::clamp<int64_t>(timeout_ms, 0, kTimeoutMsMax));
}

absl::StatusOr<std::shared_ptr<Runtime>> Runtime::Start(Options options) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<EpollLoop> loop, EpollLoop::Create());
  std::shared_ptr<Runtime> runtime(new Runtime(std::move(options), std::move(loop)));
  runtime->thread_ = std::make_unique<std::thread>([raw = runtime.get()]() { raw->RunLoop(); });
  ForkGuard::Add(runtime.get());
  return runtime;
}

// Invariant (1).
void Runtime::RunLoop() {
  PreferShortSlices();
  net_ = std::make_unique<RealNet>(loop_.get(), nullptr, RealNet::Options());
  host_ = std::make_unique<RealHost>(loop_.get());
  core_ = std::make_unique<ClientCore>(loop_.get(), net_.get(), host_.get(), options_.address);
  loop_->Run();
  core_->Close();
  loop_->Shutdown();
  core_ = nullptr;
  host_ = nullptr;
  net_ = nullptr;
}

Runtime::~Runtime() {
  if (forked_.load()) {
    // Invariant (2): neither the thread nor what it owned can be ended here.
    static_cast<void>(thread_.release());
    static_cast<void>(core_.release());
    static_cast<void>(host_.release());
    static_cast<void>(net_.release());
    static_cast<void>(loop_.release());
    static_cast<void>(parking_.release());  // the loop's thread stood in it
    return;
  }
  ForkGuard::Remove(this);
  GEMEL_CHECK(!OnOwnThread()) << "the loop's own thread freed the last handle";
  loop_->Stop();
  thread_->join();
}

absl::Status Runtime::Check() const {
  if (forked_.load()) {
    return error::FailedPrecondition(
        "this client of {} was made before fork; connect again in the child", options_.address);
  }
  if (closed_.load()) {
    return error::FailedPrecondition("this client of {} is closed; connect again",
                                     options_.address);
  }
  return absl::OkStatus();
}

absl::Status Runtime::Call(std::function<Task<absl::Status>()> make, Duration timeout) {
  GEMEL_RETURN_IF_ERROR(Check());
  return Await(Begin(std::move(make)), timeout);
}

Runtime::Begun Runtime::Begin(std::function<Task<absl::Status>()> make) {
  GEMEL_CHECK(!forked_.load());
  auto begun = std::make_shared<Waiting<absl::StatusOr<bool>>>();
  auto with_value = [make = std::move(make)]() { return WithValue(make); };
  loop_->PostFromAnyThread([this, begun, with_value = std::move(with_value)]() {
    loop_->Spawn(Run<bool>(begun, with_value, nullptr));
  });
  return begun;
}

absl::Status Runtime::Await(const Begun& begun, Duration timeout) {
  GEMEL_CHECK(!OnOwnThread()) << "the loop cannot wait for itself";
  return begun->Await(timeout + kCallGrace + kInterruptEvery, options_.interrupted).status();
}

void Runtime::Dispose(std::function<void()> last) {
  GEMEL_CHECK(!forked_.load());
  loop_->PostFromAnyThread([last = std::move(last)]() { last(); });
}

void Runtime::Close() {
  if (forked_.load() || closed_.exchange(true)) {
    return;
  }
  loop_->PostFromAnyThread([this]() { core_->Close(); });
}

void Runtime::Park() {
  GEMEL_CHECK(!OnOwnThread()) << "the loop's thread does not fork";
  loop_->PostFromAnyThread([this]() { parking_->Stay(); });
  parking_->AwaitParked();
}

void Runtime::Resume() { parking_->Leave(); }

}  // namespace gemel
