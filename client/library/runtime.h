// SPDX-License-Identifier: Apache-2.0
//
// Runtime: what one client of the library runs on: a background thread with its EpollLoop, the
// connection, and the way from the caller's threads to it.
//
// Thread safety: Call(), Dispose(), Close() and Check() any thread; core() on the loop.
// Ownership: shared by the client's handle and the handles made through it, which are freed in any
// order; the last one ends the thread. In a forked child everything is left as it is, for ever: the
// thread does not exist there, and destructors would talk on the parent's connection.
// Invariants:
//   (1) what lives on the loop is made, used and destroyed on its thread;
//   (2) after a fork the child's calls fail with FailedPrecondition and touch nothing.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "client/core/client_core.h"
#include "client/library/fork_guard.h"
#include "client/library/waiting.h"
#include "common/epoll_loop.h"

namespace gemel {

class Runtime final : public Forkable, public std::enable_shared_from_this<Runtime> {
 public:
  struct Options {
    std::string address;
    Duration timeout = 30s;
    std::function<bool()> interrupted;  // may be null
  };

  // Starts the thread; nothing is connected yet.
  static absl::StatusOr<std::shared_ptr<Runtime>> Start(Options options);
  ~Runtime() override;

  // OK, or why this client can do nothing any more: closed, or made before a fork.
  absl::Status Check() const;

  // Runs make()'s task on the loop and waits for it: at most `timeout` and kCallGrace more. What
  // comes when nobody waits any more goes to `dispose`, on the loop.
  template <typename T>
  absl::StatusOr<T> Call(std::function<Task<absl::StatusOr<T>>()> make, Duration timeout,
                         const std::function<void(T)>& dispose) {
    GEMEL_RETURN_IF_ERROR(Check());
    GEMEL_CHECK(!OnOwnThread()) << "the loop cannot wait for itself";
    auto waiting = std::make_shared<Waiting<absl::StatusOr<T>>>();
    loop_->PostFromAnyThread([this, waiting, make = std::move(make), dispose]() {
      loop_->Spawn(Run<T>(waiting, make, dispose));
    });
    return waiting->Await(timeout + kCallGrace + kInterruptEvery, options_.interrupted);
  }

  // The same for a task without a value.
  absl::Status Call(std::function<Task<absl::Status>()> make, Duration timeout);

  // Its two halves, for tasks that go on while the caller works: what Begin() gives is awaited at
  // most once.
  using Begun = std::shared_ptr<Waiting<absl::StatusOr<bool>>>;
  Begun Begin(std::function<Task<absl::Status>()> make);
  absl::Status Await(const Begun& begun, Duration timeout);

  // Runs `last` on the loop, later. REQUIRES: not forked().
  void Dispose(std::function<void()> last);

  // Ends the connection; calls in progress and later ones fail. Idempotent.
  void Close();

  ClientCore* core() const {
    GEMEL_CHECK(loop_->OnLoopThread());
    return core_.get();
  }

  EpollLoop* loop() const { return loop_.get(); }

  Duration timeout() const { return options_.timeout; }

  const std::string& address() const { return options_.address; }

  // Forkable.
  void Park() override;
  void Resume() override;

  void Forked() override { forked_.store(true); }

  // In a child of a fork: locks may be held by threads that do not exist here.
  bool forked() const { return forked_.load(); }

 private:
  explicit Runtime(Options options, std::unique_ptr<EpollLoop> loop)
      : options_(std::move(options)), loop_(std::move(loop)) {}

  template <typename T>
  static Task<void> Run(std::shared_ptr<Waiting<absl::StatusOr<T>>> waiting,
                        std::function<Task<absl::StatusOr<T>>()> make,
                        std::function<void(T)> dispose) {
    absl::StatusOr<T> result = co_await make();
    if (!waiting->Deliver(result) && result.ok() && dispose) {
      dispose(std::move(*result));
    }
  }

  void RunLoop();

  // True also before the loop runs, unlike OnLoopThread().
  bool OnOwnThread() const { return thread_->get_id() == std::this_thread::get_id(); }

  const Options options_;
  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<Net> net_;
  std::unique_ptr<Host> host_;
  std::unique_ptr<ClientCore> core_;
  std::unique_ptr<std::thread> thread_;
  std::atomic<bool> closed_{false};
  std::atomic<bool> forked_{false};
  std::unique_ptr<Parking> parking_ = std::make_unique<Parking>();
};

// The time to wait for: at least 0, at most a month, which every field of a message holds.
Duration ClampTimeout(int64_t timeout_ms);

}  // namespace gemel
