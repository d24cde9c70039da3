// SPDX-License-Identifier: Apache-2.0
//
// One input of the message fuzzers: the first byte picks a message of transport/local/messages.h,
// transport/peer/messages.h or server/keeper/keeper_messages.h, the rest are its bytes. What is
// accepted must encode to the same bytes.
//
// Thread safety: pure. An input that breaks an invariant ends the process.
#pragma once

#include <string>
#include <vector>

#include "common/check.h"
#include "common/fields.h"
#include "server/keeper/keeper_messages.h"
#include "tests/fuzz/inputs.h"
#include "transport/local/messages.h"
#include "transport/peer/messages.h"

namespace gemel {

// Calls `visit` with a value of every message.
void ForEachMessage(auto&& visit) {
  visit(ClientHello());
  visit(ClientHelloReply());
  visit(AcquireEpoch());
  visit(AcquireEpochDone());
  visit(OpenShard());
  visit(OpenShardReply());
  visit(StageShard());
  visit(StageShardReply());
  visit(SealStage());
  visit(DropStage());
  visit(PrepareSlabs());
  visit(PrepareSlabsReply());
  visit(ReclaimSlabs());
  visit(ChunksFilled());
  visit(SealShard());
  visit(AwaitCommit());
  visit(AwaitCommitDone());
  visit(AbortShard());
  visit(BeginRestore());
  visit(BeginRestoreDone());
  visit(BeginRead());
  visit(ListSnapshots());
  visit(ListSnapshotsReply());
  visit(RemoveSnapshot());
  visit(FetchChunks());
  visit(FetchChunksReply());
  visit(ReportRestore());
  visit(AwaitRestore());
  visit(AwaitRestoreDone());
  visit(ReleaseRestore());
  visit(Acknowledged());
  visit(PeerHello());
  visit(Offer());
  visit(OfferReply());
  visit(AskCredit());
  visit(Credit());
  visit(Write());
  visit(PeerSeal());
  visit(Revoke());
  visit(Describe());
  visit(DescribeReply());
  visit(Read());
  visit(KeeperHello());
  visit(KeeperHelloReply());
  visit(KeeperTake());
  visit(KeeperTakeReply());
  visit(KeeperGive());
  visit(KeeperForget());
  visit(KeeperDone());
}

class MessagesTarget {
 public:
  // True when the message was accepted.
  static bool Run(ByteSpan input) {
    Choices choices(input);
    const uint8_t pick = choices.Byte();
    const std::string raw = choices.Rest();
    uint8_t count = 0;
    ForEachMessage([&](const auto&) { ++count; });
    bool accepted = false;
    uint8_t index = 0;
    ForEachMessage([&]<typename Message>(const Message&) {
      if (index++ == pick % count) {
        accepted = RunOne<Message>(raw);
      }
    });
    return accepted;
  }

  // A valid input of every message, with its lists filled.
  static std::vector<std::string> Seeds() {
    std::vector<std::string> seeds;
    ForEachMessage([&]<typename Message>(Message message) {
      Message::Fields(message, Filler());
      seeds.push_back(static_cast<char>(seeds.size()) + EncodeMessage(message));
    });
    return seeds;
  }

 private:
  template <typename Message>
  static bool RunOne(const std::string& raw) {
    const absl::StatusOr<Message> message = DecodeMessage<Message>(raw);
    if (!message.ok()) {
      GEMEL_CHECK(message.status().code() == absl::StatusCode::kInvalidArgument);
      return false;
    }
    GEMEL_CHECK(EncodeMessage(*message) == raw) << Message::kName;
    return true;
  }

  // Gives strings and lists some content.
  struct Filler {
    void operator()(std::string_view name, std::string& value) const { value = name; }

    template <typename T>
    void operator()(std::string_view, std::vector<T>& values) const {
      values.resize(2);
    }

    void operator()(std::string_view, auto&) const {}

    void Last(std::string_view, auto& value) const {
      value = static_cast<std::remove_reference_t<decltype(value)>>(1);
    }
  };
};

}  // namespace gemel
