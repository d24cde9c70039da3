// SPDX-License-Identifier: Apache-2.0
#include "transport/socket_listener.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "transport/outcome.h"

namespace gemel {
namespace {

constexpr int kAcceptsPerWakeup = 16;

}  // namespace

SocketListener::SocketListener(EpollLoop* loop, EventSink* events, Descriptor socket,
                               Options options)
    : loop_(loop), events_(events), socket_(std::move(socket)), options_(std::move(options)) {
  GEMEL_CHECK(socket_.valid());
  GEMEL_CHECK(options_.taken != nullptr);
  WatchSocket();
}

SocketListener::~SocketListener() {
  *alive_ = false;
  if (resume_ != Loop::kNoTimer) {
    loop_->CancelTimer(resume_);
  }
  loop_->Unwatch(socket_.get());
  socket_.Reset();
  if (options_.released != nullptr) {
    options_.released();
  }
}

void SocketListener::WatchSocket() {
  loop_->Watch(socket_.get(), EPOLLIN, [this](uint32_t /*ready*/) { OnReady(); });
}

void SocketListener::OnReady() {
  std::shared_ptr<bool> alive = alive_;
  for (int i = 0; *alive && i < kAcceptsPerWakeup; ++i) {
    Descriptor accepted(accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!accepted.valid()) {
      const Outcome outcome = OutcomeOfErrno(errno).outcome;
      if (outcome == Outcome::kNoCredit || outcome == Outcome::kInvalid) {
        Pause(errno);
      }
      return;  // EAGAIN, or a caller that gave up: the watch is level triggered
    }
    const Taken taken = options_.taken;  // which may stop the listener
    if (const absl::Status status = taken(std::move(accepted)); !status.ok() && *alive) {
      Report("connection_refused", status);
    }
  }
}

void SocketListener::Pause(int error) {
  GEMEL_CHECK_EQ(resume_, Loop::kNoTimer);
  Report("accept_paused", StatusOfErrno(error, options_.address));
  loop_->Unwatch(socket_.get());
  resume_ = loop_->RunAt(Add(loop_->Now(), kPauseWhenFull), [this] {
    resume_ = Loop::kNoTimer;
    WatchSocket();
  });
}

void SocketListener::Report(std::string_view name, const absl::Status& why) {
  if (events_ != nullptr) {
    events_->Emit(Severity::kWarning, name, ToText(why));
  }
}

}  // namespace gemel
