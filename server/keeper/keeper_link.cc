// SPDX-License-Identifier: Apache-2.0
#include "server/keeper/keeper_link.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/fields.h"
#include "common/status_macros.h"
#include "server/keeper/keeper_messages.h"
#include "server/retry_delay.h"

namespace gemel {
namespace {

template <typename Message>
Request RequestOf(FrameType type, const Message& message) {
  Request request;
  request.type = type;
  request.body = EncodeMessage(message);
  return request;
}

// The call's own failure, or the keeper's.
absl::Status StatusOf(const absl::StatusOr<Reply>& reply) {
  return reply.ok() ? reply->status : reply.status();
}

}  // namespace

KeeperLink::KeeperLink(Loop* loop, Net* net, EventSink* events, std::string address)
    : loop_(loop), net_(net), events_(events), address_(std::move(address)), lost_(loop) {
  GEMEL_CHECK(loop != nullptr && net != nullptr && events != nullptr);
}

KeeperLink::~KeeperLink() {
  if (session_ != nullptr) {
    session_->Detach();
  }
}

std::string KeeperLink::Where() const { return fmt::format("the keeper at {}", address_); }

Placement KeeperLink::PlaceRequestPayload(Session* /*session*/, const FrameHeader& /*header*/,
                                          std::string_view /*body*/) {
  return Placement();  // a keeper asks nothing
}

Task<Reply> KeeperLink::Handle(std::shared_ptr<Session> /*session*/, IncomingRequest request) {
  Reply reply;
  reply.status = error::Unimplemented("a keeper asks nothing; frame type {} came",
                                      static_cast<int>(request.header.type));
  co_return reply;
}

void KeeperLink::OnSessionClosed(Session* session, const absl::Status& /*why*/) {
  if (session_.get() == session) {
    lost_.NotifyAll();
  }
}

Task<absl::Status> KeeperLink::Connect() {
  const TimePoint deadline = Add(loop_->Now(), kHelloDeadline);
  absl::StatusOr<std::unique_ptr<Connection>> connection =
      co_await net_->Connect(address_, deadline);
  GEMEL_CO_RETURN_IF_ERROR(connection.status());
  std::shared_ptr<Session> session =
      Session::Start(loop_, *std::move(connection), this, Session::Options());
  KeeperHello hello;
  hello.server_name = taker_.server_name;
  hello.server = taker_.server;
  hello.cluster = taker_.cluster;
  hello.incarnation = taker_.incarnation;
  Request request = RequestOf(FrameType::kKeeperHello, hello);
  request.handles.push_back(taker_.process);
  const absl::StatusOr<Reply> reply =
      co_await session->Call(std::move(request), MutableByteSpan(), deadline);
  absl::Status greeted = StatusOf(reply);
  if (greeted.ok()) {
    greeted = DecodeMessage<KeeperHelloReply>(reply->body).status();
  }
  if (!greeted.ok()) {
    session->Detach();
    session->Close(greeted);
    co_return Annotate(greeted, Where());
  }
  session_ = std::move(session);
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::vector<KeptItem>>> KeeperLink::Take(Taker taker) {
  GEMEL_CHECK(session_ == nullptr && items_.empty()) << "taken twice";
  GEMEL_CHECK(taker.process != nullptr && !taker.incarnation.IsZero());
  taker_ = std::move(taker);
  const TimePoint give_up = Add(loop_->Now(), kFirstPatience);
  RetryDelay delay;
  while (true) {
    const absl::Status connected = co_await Connect();
    if (connected.ok()) {
      break;
    }
    const Duration pause = delay.Next();
    const bool again =
        connected.code() == absl::StatusCode::kUnavailable && Add(loop_->Now(), pause) < give_up;
    if (connected.code() == absl::StatusCode::kUnavailable && !again) {
      co_return error::Unavailable(
          "{}; start gemel-keeper there first, or leave out --keeper: memory is then lost with "
          "this server's process",
          MessageOf(connected));
    }
    GEMEL_CO_RETURN_IF_ERROR(again ? absl::OkStatus() : connected);
    co_await loop_->Sleep(pause);
  }
  GEMEL_CO_RETURN_IF_ERROR(co_await TakeAll());
  std::vector<KeptItem> taken;
  for (const auto& [name, handle] : items_) {
    taken.push_back({name, handle});
  }
  co_return taken;
}

Task<absl::Status> KeeperLink::TakeAll() {
  while (true) {
    GEMEL_CHECK_LE(items_.size(), kKeptItemsMax);
    KeeperTake take;
    take.first = static_cast<uint32_t>(items_.size());
    Request request = RequestOf(FrameType::kKeeperTake, take);
    const TimePoint deadline = Add(loop_->Now(), kHelloDeadline);
    const absl::StatusOr<Reply> reply =
        co_await session_->Call(std::move(request), MutableByteSpan(), deadline);
    GEMEL_CO_RETURN_IF_ERROR(Annotate(StatusOf(reply), Where()));
    GEMEL_CO_ASSIGN_OR_RETURN(const KeeperTakeReply part,
                              DecodeMessage<KeeperTakeReply>(reply->body));
    if (part.items.size() != reply->handles.size()) {
      co_return error::Internal("{} gave {} items with {} handles", Where(), part.items.size(),
                                reply->handles.size());
    }
    const size_t before = items_.size();
    for (size_t i = 0; i < part.items.size(); ++i) {
      items_[part.items[i]] = reply->handles[i];
    }
    if (part.items.empty()) {
      co_return absl::OkStatus();
    }
    if (items_.size() != before + part.items.size()) {
      co_return error::Internal("{} gave an item twice", Where());
    }
  }
}

Task<absl::Status> KeeperLink::Give(std::vector<KeptItem> items) {
  for (const KeptItem& item : items) {
    GEMEL_CHECK(item.handle != nullptr) << item.name.ToString();
    items_[item.name] = item.handle;
  }
  GEMEL_CHECK_LE(items_.size(), kKeptItemsMax);
  if (!connected()) {
    co_return error::Unavailable("{} is not connected", Where());
  }
  const std::shared_ptr<Session> session = session_;
  const absl::Status given = co_await SendGive(loop_, session, std::move(items));
  if (!given.ok() && session->open()) {
    session->Close(given);  // (2)
    lost_.NotifyAll();
  }
  co_return Annotate(given, Where());
}

Task<absl::Status> KeeperLink::SendGive(Loop* loop, std::shared_ptr<Session> session,
                                        std::vector<KeptItem> items) {
  for (size_t first = 0; first < items.size(); first += kKeptPerFrameMax) {
    const size_t end = std::min(first + kKeptPerFrameMax, items.size());
    KeeperGive give;
    Handles handles;
    for (size_t i = first; i < end; ++i) {
      give.items.push_back(items[i].name);
      handles.push_back(items[i].handle);
    }
    Request request = RequestOf(FrameType::kKeeperGive, give);
    request.handles = std::move(handles);
    const TimePoint deadline = Add(loop->Now(), kGiveDeadline);
    const absl::StatusOr<Reply> reply =
        co_await session->Call(std::move(request), MutableByteSpan(), deadline);
    GEMEL_CO_RETURN_IF_ERROR(StatusOf(reply));
  }
  co_return absl::OkStatus();
}

void KeeperLink::Forget(std::vector<KeptName> names) {
  for (const KeptName& name : names) {
    items_.erase(name);
  }
  if (connected() && !names.empty()) {
    loop_->Spawn(SendForget(loop_, session_, std::move(names)));
  }
}

// One that is lost costs a descriptor at the keeper, until this server's next life forgets it.
Task<void> KeeperLink::SendForget(Loop* loop, std::shared_ptr<Session> session,
                                  std::vector<KeptName> names) {
  KeeperForget forget;
  forget.items = std::move(names);
  Request request = RequestOf(FrameType::kKeeperForget, forget);
  const TimePoint deadline = Add(loop->Now(), kGiveDeadline);
  const absl::StatusOr<Reply> reply =
      co_await session->Call(std::move(request), MutableByteSpan(), deadline);
  if (!StatusOf(reply).ok() && session->open()) {
    session->Close(StatusOf(reply));
  }
}

// Clients and slabs go before the directory: one that names what is not kept would be no use.
Task<absl::Status> KeeperLink::GiveAll() {
  std::vector<KeptName> names;
  for (auto at = items_.rbegin(); at != items_.rend(); ++at) {
    names.push_back(at->first);
  }
  const std::shared_ptr<Session> session = session_;
  for (size_t first = 0; first < names.size(); first += kKeptPerFrameMax) {
    std::vector<KeptItem> batch;
    for (size_t i = first; i < std::min(first + kKeptPerFrameMax, names.size()); ++i) {
      const auto found = items_.find(names[i]);  // what was forgotten meanwhile is left out
      if (found != items_.end()) {
        batch.push_back({found->first, found->second});
      }
    }
    GEMEL_CO_RETURN_IF_ERROR(co_await SendGive(loop_, session, std::move(batch)));
  }
  co_return absl::OkStatus();
}

Task<void> KeeperLink::Run(Gate* gate) {
  const Gate::Pass pass = gate->Enter();
  RetryDelay delay;
  absl::StatusCode told = absl::StatusCode::kOk;
  while (pass && !gate->closed()) {
    if (connected()) {
      co_await lost_.WaitUntil(kTimeNever);
      continue;
    }
    absl::Status found = co_await Connect();
    if (found.ok()) {
      found = co_await GiveAll();
    }
    if (found.ok()) {
      told = absl::StatusCode::kOk;
      delay.Reset();
      events_->Emit(Severity::kInfo, "keeper_found",
                    fmt::format("{} has all {} descriptors", Where(), items_.size()));
      continue;
    }
    if (session_ != nullptr && session_->open()) {
      session_->Close(found);
    }
    if (found.code() != told) {
      told = found.code();
      events_->Emit(Severity::kWarning, "keeper_lost",
                    fmt::format("when this server's process ends before a gemel-keeper has its "
                                "memory, that is lost with it: {}",
                                MessageOf(found)));
    }
    co_await loop_->Sleep(delay.Next());
  }
}

}  // namespace gemel
