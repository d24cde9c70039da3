// SPDX-License-Identifier: Apache-2.0
//
// ServedCall: the RpcCall of both control planes, gRPC's and the simulator's.
//
// Thread safety: the loop of its handler only; the fabric posts Cancel() to it.
// Ownership: shared by the handler's coroutine and the server; never held off the loop, because it
// holds the handler's callback. Invariants:
//   (1) a callback given to OnCallerGone runs at most once, and never after Finish().
#pragma once

#include <functional>
#include <utility>

#include "common/check.h"
#include "common/loop.h"
#include "transport/control/rpc.h"

namespace gemel {

class ServedCall final : public RpcCall {
 public:
  explicit ServedCall(Loop* loop) : loop_(loop) {}

  bool cancelled() const override { return cancelled_; }

  void OnCallerGone(std::function<void()> gone) override {
    GEMEL_CHECK(gone != nullptr && gone_ == nullptr) << "OnCallerGone() once a call";
    if (finished_) {
      return;
    }
    if (cancelled_) {
      loop_->Post([gone = std::move(gone)] { gone(); });
      return;
    }
    gone_ = std::move(gone);
  }

  // The caller is gone, or the server stops.
  void Cancel() {
    GEMEL_CHECK(loop_->OnLoopThread());
    if (finished_ || cancelled_) {
      return;
    }
    cancelled_ = true;
    if (std::function<void()> gone = std::exchange(gone_, nullptr)) {
      gone();
    }
  }

  // The handler has ended.
  void Finish() {
    finished_ = true;
    gone_ = nullptr;
  }

 private:
  Loop* const loop_;
  bool cancelled_ = false;
  bool finished_ = false;
  std::function<void()> gone_;
};

}  // namespace gemel
