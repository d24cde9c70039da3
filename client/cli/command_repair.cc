// SPDX-License-Identifier: Apache-2.0
//
// `gemel repair` and `gemel drain`: both wait, with a progress line, for what placement does in the
// background anyway; ending them ends nothing but the waiting.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "client/cli/commands.h"
#include "client/cli/host_processes.h"
#include "client/cli/progress.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/control_protocol.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr Duration kAskEvery = 200ms;
constexpr Duration kBlockedPatience = 3s;  // a server that comes back may unblock it

double Mebibytes(uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(kMiB); }

std::string Joined(const google::protobuf::RepeatedPtrField<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) {
    text += (text.empty() ? "" : "; ") + line;
  }
  return text;
}

Json ListOf(const google::protobuf::RepeatedPtrField<std::string>& lines) {
  Json list = Json::array();
  for (const std::string& line : lines) {
    list.push_back(line);
  }
  return list;
}

// Says when waiting has lost its sense.
class Standstill {
 public:
  explicit Standstill(Duration patience) : patience_(patience), moved_(Now()), blocked_(Now()) {}

  // What is left, in any unit; `blocked`: something stands in the way.
  void Look(uint64_t left, bool blocked) {
    if (left != left_) {
      left_ = left;
      moved_ = Now();
      blocked_ = moved_;
    }
    blocked_ = blocked ? blocked_ : Now();
  }

  bool Blocked() const { return Now() - blocked_ >= kBlockedPatience; }

  bool Over() const { return Now() - moved_ >= patience_; }

 private:
  const Duration patience_;
  uint64_t left_ = UINT64_MAX;
  TimePoint moved_;
  TimePoint blocked_;
};

absl::StatusOr<v1::RepairReply> AskRepair(PlacementClient* placement) {
  v1::RepairRequest request;
  request.mutable_caller()->set_protocol_version(kControlProtocolOldest);
  return placement->Call<v1::RepairReply>("Repair", request);
}

bool AllThere(const v1::RepairReply& reply) {
  return reply.shards() == 0 && reply.persisted_shards() == 0 && reply.unknown_snapshots() == 0 &&
         reply.blocked_size() == 0;
}

Json JsonOf(const v1::RepairReply& reply) {
  return Json{{"full", AllThere(reply) && reply.lost_shards() == 0},
              {"shards", reply.shards()},
              {"bytes", reply.bytes()},
              {"last_copy_shards", reply.last_copy_shards()},
              {"lost_shards", reply.lost_shards()},
              {"persisted_shards", reply.persisted_shards()},
              {"unknown_snapshots", reply.unknown_snapshots()},
              {"pulls", reply.pulls()},
              {"repaired_bytes", reply.repaired_bytes()},
              {"blocked", ListOf(reply.blocked())},
              {"waiting", ListOf(reply.waiting())}};
}

std::string TextOf(const v1::RepairReply& reply) {
  if (AllThere(reply) && reply.lost_shards() == 0) {
    return "every committed shard has its copies\n";
  }
  std::string text =
      fmt::format("{} shards lack a copy, {} of them have one left or none; {:.1f} MiB to copy\n",
                  reply.shards(), reply.last_copy_shards(), Mebibytes(reply.bytes()));
  if (reply.persisted_shards() > 0) {
    text += fmt::format("{} shards lack a copy on disk\n", reply.persisted_shards());
  }
  if (reply.lost_shards() > 0) {
    text += fmt::format("{} shards are lost: nobody has them\n", reply.lost_shards());
  }
  for (const std::string& line : reply.blocked()) {
    text += "blocked: " + line + "\n";
  }
  for (const std::string& line : reply.waiting()) {
    text += "waiting: " + line + "\n";
  }
  return text;
}

absl::Status VerdictOn(const v1::RepairReply& reply, bool over, Duration patience) {
  if (reply.lost_shards() > 0) {
    return error::DataLoss(
        "{} shards are lost; a restore takes the newest snapshot that is whole: `gemel snapshots`",
        reply.lost_shards());
  }
  if (AllThere(reply)) {
    return absl::OkStatus();
  }
  if (reply.blocked_size() > 0) {
    return error::FailedPrecondition("not everything can be repaired as it is: {}",
                                     Joined(reply.blocked()));
  }
  if (!over) {
    return error::FailedPrecondition("{} shards lack a copy; repair goes on in the background",
                                     reply.shards() + reply.persisted_shards());
  }
  return error::DeadlineExceeded(
      "{} shards lack a copy and none was finished for {} s: {}. It goes on in the background",
      reply.shards() + reply.persisted_shards(),
      std::chrono::duration_cast<std::chrono::seconds>(patience).count(),
      reply.waiting_size() > 0 ? Joined(reply.waiting()) : "the link is slow");
}

absl::StatusOr<v1::DrainReply> AskDrain(PlacementClient* placement, const Flags& flags,
                                        v1::DrainRequest::Action action) {
  v1::DrainRequest request;
  request.mutable_caller()->set_protocol_version(kControlProtocolOldest);
  request.set_server(flags.target);
  request.set_action(action);
  request.set_force(flags.force);
  return placement->Call<v1::DrainReply>("Drain", request);
}

Json JsonOf(const v1::DrainReply& reply) {
  return Json{{"server", reply.server().name()},
              {"draining", reply.server().draining()},
              {"state", reply.ready()               ? "READY_TO_STOP"
                        : reply.server().draining() ? "DRAINING"
                                                    : "TAKES_WORK"},
              {"shards", reply.shards()},
              {"bytes", reply.bytes()},
              {"persisted_shards", reply.persisted_shards()},
              {"open_saves", reply.open_saves()},
              {"blocked", ListOf(reply.blocked())},
              {"waiting", ListOf(reply.waiting())}};
}

std::string TextOf(const v1::DrainReply& reply) {
  const std::string& name = reply.server().name();
  if (reply.ready()) {
    return fmt::format(
        "{} is READY_TO_STOP: nothing that is committed needs it. `gemel drain {} --cancel` gives "
        "it work again\n",
        name, name);
  }
  if (!reply.server().draining()) {
    return fmt::format("{} takes work\n", name);
  }
  std::string text =
      fmt::format("{} is being drained: {} shards, {:.1f} MiB, {} on disk are left\n", name,
                  reply.shards(), Mebibytes(reply.bytes()), reply.persisted_shards());
  for (const std::string& line : reply.blocked()) {
    text += "blocked: " + line + "\n";
  }
  for (const std::string& line : reply.waiting()) {
    text += "waiting: " + line + "\n";
  }
  return text;
}

// Waits until it is ready, or until waiting has no sense.
absl::StatusOr<v1::DrainReply> AwaitDrained(PlacementClient* placement, const Flags& flags,
                                            v1::DrainReply reply) {
  GEMEL_CHECK(placement != nullptr);
  const Duration patience = std::chrono::seconds(flags.patience_s);
  Progress progress(flags.json());
  Standstill standstill(patience);
  uint64_t most = 0;
  while (!reply.ready()) {
    const std::string& name = reply.server().name();
    if (!reply.server().draining()) {
      return error::FailedPrecondition("the drain of {} was cancelled", name);
    }
    if (reply.server().state() == v1::MEMBER_DEAD) {
      return error::FailedPrecondition(
          "{} died before it was empty: `gemel repair` says how far its copies are made anew",
          name);
    }
    const uint64_t things = reply.shards() + reply.persisted_shards() + reply.open_saves();
    standstill.Look(reply.bytes() + things, reply.blocked_size() > 0);
    if (standstill.Blocked()) {
      return error::FailedPrecondition(
          "{} cannot be emptied as it is: {}. It takes no work until `gemel drain {} --cancel`",
          name, Joined(reply.blocked()), name);
    }
    if (standstill.Over()) {
      return error::DeadlineExceeded(
          "{} still has {} shards, {} on disk and {} open saves, and nothing moved for {} s{}{}. "
          "It goes on in the background",
          name, reply.shards(), reply.persisted_shards(), reply.open_saves(), flags.patience_s,
          reply.waiting_size() > 0 ? ": " : "", Joined(reply.waiting()));
    }
    most = std::max(most, reply.bytes());
    GEMEL_CHECK_GE(most, reply.bytes()) << name;
    progress.Update(most - reply.bytes(), most,
                    fmt::format("draining {}, {} shards left", name, things));
    Pause(kAskEvery);
    GEMEL_ASSIGN_OR_RETURN(reply, AskDrain(placement, flags, v1::DrainRequest::STATUS));
  }
  return reply;
}

}  // namespace

absl::Status RunRepair(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement, PlacementOf(flags));
  const Duration patience = std::chrono::seconds(flags.patience_s);
  GEMEL_ASSIGN_OR_RETURN(v1::RepairReply reply, AskRepair(placement.get()));
  const uint64_t before = reply.repaired_bytes();
  bool over = false;
  {
    Progress progress(flags.json());
    Standstill standstill(patience);
    while (!flags.no_wait && !AllThere(reply) && !over) {
      const uint64_t done = reply.repaired_bytes() - std::min(before, reply.repaired_bytes());
      progress.Update(
          done, done + reply.bytes(),
          fmt::format("repairing, {} shards left", reply.shards() + reply.persisted_shards()));
      standstill.Look(reply.bytes() + reply.persisted_shards(), reply.blocked_size() > 0);
      over = standstill.Over() || (standstill.Blocked() && reply.pulls() == 0);
      if (!over) {
        Pause(kAskEvery);
        GEMEL_ASSIGN_OR_RETURN(reply, AskRepair(placement.get()));
      }
    }
  }
  GEMEL_RETURN_IF_ERROR(Print(flags, JsonOf(reply), TextOf(reply)));
  return VerdictOn(reply, over, patience);
}

absl::Status RunDrain(const Flags& flags) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<PlacementClient> placement, PlacementOf(flags));
  const auto action = flags.cancel ? v1::DrainRequest::CANCEL : v1::DrainRequest::BEGIN;
  GEMEL_ASSIGN_OR_RETURN(v1::DrainReply reply, AskDrain(placement.get(), flags, action));
  if (!flags.cancel && !flags.no_wait) {
    GEMEL_ASSIGN_OR_RETURN(reply, AwaitDrained(placement.get(), flags, std::move(reply)));
  }
  return Print(flags, JsonOf(reply), TextOf(reply));
}

}  // namespace gemel::cli
