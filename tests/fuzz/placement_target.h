// SPDX-License-Identifier: Apache-2.0
//
// One input of the placement fuzzers: calls of any method with any bytes, one after the other and
// side by side, on one manager over the simulated store and loop, with time that passes, servers
// that fall silent, and restarts of the manager on its store. Every call must be answered in
// bounded time, with an error that is not Internal, and a manager must read what one before it
// wrote.
//
// Thread safety: one thread. An input that breaks an invariant ends the process.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/errors.h"
#include "common/sim_loop.h"
#include "placement/manager/manager.h"
#include "placement/manager/stored.h"
#include "placement/store/sim_store.h"
#include "tests/fuzz/placement_requests.h"

namespace gemel {

class PlacementTarget {
 public:
  // First byte: bit 0 a recovery from servers, bit 1 a store with arbitrary content, bit 2 servers
  // have joined and the job has an epoch. Returns the calls that were answered OK.
  size_t Run(ByteSpan input) {
    Choices choices(input);
    const uint8_t shape = choices.Byte();
    recover_ = (shape & 1) != 0;
    if ((shape & 2) != 0) {
      SpoilStore(&choices);
    }
    if (!Start(true)) {
      life_ = nullptr;
      return 0;
    }
    if ((shape & 4) != 0) {
      Prelude();
    }
    for (int step = 0; step < kStepsMax && !choices.empty(); ++step) {
      Step(&choices);
    }
    RunFor(kAnswerWithin);
    GEMEL_CHECK_EQ(answered_, begun_) << "a call was not answered";
    StopLife();
    return answered_ok_;
  }

  // One call after a beginning of that shape: for inputs that were found once.
  absl::Status RunOne(uint8_t shape, std::string method, const google::protobuf::Message& request) {
    recover_ = (shape & 1) != 0;
    GEMEL_CHECK(Start(true));
    if ((shape & 4) != 0) {
      Prelude();
    }
    Begin(std::move(method), request.SerializeAsString());
    RunFor(kAnswerWithin);
    GEMEL_CHECK_EQ(answered_, begun_) << "the call was not answered";
    StopLife();
    return last_;
  }

  // What a manager says to a store with this content.
  absl::Status StartOn(const std::map<std::string, std::string>& content) {
    spoiled_ = true;
    for (const auto& [key, value] : content) {
      state_.values[key] = Versioned{value, ++state_.version};
    }
    const bool started = Start(true);
    const absl::Status status = *life_->started;
    if (started) {
      StopLife();
    }
    life_ = nullptr;
    return status;
  }

  const PlacementRequests& requests() const { return requests_; }

 private:
  static constexpr int kStepsMax = 48;
  static constexpr uint64_t kEventsMax = 2'000'000;
  static constexpr Duration kAnswerWithin = 45s;  // wait_max is 30 s

  // Nobody answers at a data address.
  class NoNet final : public Net {
   public:
    Task<absl::StatusOr<std::unique_ptr<Connection>>> Connect(std::string address,
                                                              TimePoint) override {
      co_return error::Unavailable("{} refuses", address);
    }

    absl::StatusOr<std::unique_ptr<Listener>> Listen(std::string, AcceptCallback) override {
      return error::Unimplemented("no listener here");
    }
  };

  class NoEvents final : public EventSink {
   public:
    void Emit(Severity, std::string_view, std::string) override {}
  };

  class Call final : public RpcCall {
   public:
    bool cancelled() const override { return gone_; }

    void OnCallerGone(std::function<void()> gone) override { on_gone_ = std::move(gone); }

    void Go() {
      gone_ = true;
      if (on_gone_) {
        std::exchange(on_gone_, nullptr)();
      }
    }

    void Answered() { on_gone_ = nullptr; }

   private:
    bool gone_ = false;
    std::function<void()> on_gone_;
  };

  // One life of the manager's process.
  struct Life {
    explicit Life(PlacementTarget* target)
        : loop(&target->scheduler_), store(&loop, &target->state_) {}

    ~Life() {
      if (!loop.is_shut_down()) {
        loop.Kill();
      }
      manager.reset();
    }

    SimLoop loop;
    SimStore store;
    Random random{3};
    NoNet net;
    NoEvents events;
    MetricRegistry metrics;
    std::unique_ptr<PlacementManager> manager;
    std::optional<absl::Status> started;
    bool stopped = false;
  };

  static Task<void> StartManager(Life* life, PlacementOptions options) {
    PlacementSeams seams{&life->loop, &life->random, &life->store,
                         &life->net,  &life->events, &life->metrics};
    auto manager = co_await PlacementManager::Start(std::move(options), seams);
    life->started = manager.status();
    if (manager.ok()) {
      life->manager = *std::move(manager);
    }
  }

  static Task<void> StopManager(Life* life) {
    co_await life->manager->Stop();
    life->stopped = true;
  }

  // False when the store was refused, which only an arbitrary one may be.
  bool Start(bool first) {
    life_ = std::make_unique<Life>(this);
    PlacementOptions options;
    options.recover_from_servers = recover_ && first;
    options.accept_loss = recover_;
    life_->loop.Spawn(StartManager(life_.get(), options));
    RunFor(5s);
    GEMEL_CHECK(life_->started.has_value()) << "the manager does not start";
    GEMEL_CHECK(life_->started->ok() || spoiled_ || recover_) << ToText(*life_->started);
    GEMEL_CHECK(life_->started->code() != absl::StatusCode::kInternal) << ToText(*life_->started);
    return life_->started->ok();
  }

  void StopLife() {
    life_->loop.Spawn(StopManager(life_.get()));
    RunFor(kAnswerWithin);
    GEMEL_CHECK(life_->stopped) << "the manager does not stop";
    life_ = nullptr;
  }

  void RunFor(Duration time) {
    const TimePoint limit = Add(scheduler_.now(), time);
    const uint64_t before = scheduler_.events_run();
    while (scheduler_.RunOne(limit)) {
      GEMEL_CHECK_LT(scheduler_.events_run() - before, kEventsMax) << "endless work";
    }
  }

  void Prelude() {
    for (size_t i = 0; i < 2; ++i) {
      pb::JoinRequest join;
      requests_.FillJoin(i, &join);
      Begin("Join", join.SerializeAsString());
      RunFor(20ms);
    }
    pb::AcquireEpochRequest acquire;
    requests_.FillCaller(0, acquire.mutable_caller());
    acquire.set_job("gpt");
    acquire.set_token(PlacementRequests::kToken);
    Begin("AcquireEpoch", acquire.SerializeAsString());
    RunFor(20ms);
  }

  void Step(Choices* choices) {
    static constexpr Duration kTimes[] = {1ms, 10ms, 100ms, 300ms, 1500ms, 31s};
    const std::vector<std::string>& methods = PlacementRequests::Methods();
    const size_t step = choices->Below(16);
    if (step == 0) {
      RunFor(kTimes[choices->Below(std::size(kTimes))]);
    } else if (step == 1) {
      Restart();
    } else if (step == 2) {
      const std::string method =
          choices->Below(8) == 0 ? choices->Text(4) : methods[choices->Below(methods.size())];
      Begin(method, choices->Text(choices->Byte()));
    } else if (step == 3 && !calls_.empty()) {
      calls_[choices->Below(std::min<size_t>(calls_.size(), 256))]->Go();
    } else {
      const std::string& method = methods[choices->Below(methods.size())];
      Begin(method, requests_.Make(method, choices)->SerializeAsString());
    }
    RunFor(step % 2 == 0 ? 5ms : 0ms);
  }

  // kill -9 and a new start on the same store.
  void Restart() {
    life_ = nullptr;
    answered_ = begun_;  // those under way died with it
    calls_.clear();
    if (!Start(false)) {
      life_ = nullptr;
      spoiled_ = true;
      state_ = SimStoreState();
      GEMEL_CHECK(Start(false));
    }
  }

  void Begin(std::string method, std::string request) {
    begun_ += 1;
    calls_.push_back(std::make_shared<Call>());
    life_->loop.Spawn(Answer(this, calls_.back(), std::move(method), std::move(request)));
  }

  static Task<void> Answer(PlacementTarget* target, std::shared_ptr<Call> call, std::string method,
                           std::string request) {
    std::string asked = method;
    const absl::StatusOr<std::string> reply =
        co_await target->life_->manager->Handle(call, std::move(asked), std::move(request));
    call->Answered();
    target->answered_ += 1;
    target->last_ = reply.status();
    const absl::StatusCode code = reply.status().code();
    GEMEL_CHECK(code != absl::StatusCode::kInternal && code != absl::StatusCode::kUnknown)
        << method << ": " << ToText(reply.status());
    if (reply.ok()) {
      target->answered_ok_ += 1;
      target->requests_.Learn(method, *reply);
    }
  }

  // Some keys of every kind, with values that are valid but for a few bytes.
  void SpoilStore(Choices* choices) {
    spoiled_ = true;
    const SnapshotId snapshot{"gpt", {1, 7}, 12, "s0", 0};
    model::CommitRecord record;
    record.snapshot = snapshot;
    record.world_size = 1;
    record.copies = record.min_copies = 2;
    OpenRecord open;
    open.snapshot = snapshot;
    open.snapshot.sequence = 13;
    open.world_size = 1;
    open.copies = open.min_copies = 2;
    ClusterRecord cluster;
    cluster.cluster.bytes[0] = 1;
    cluster.generation = cluster.map_version = 1;
    RestoreRecord restore;
    restore.epoch = {1, 7};
    restore.world_size = 1;
    restore.verified.assign(1, '\0');
    restore.chosen_epoch = {1, 7};
    restore.chosen_sequence = 12;
    JobRecord job;
    job.epoch = {1, 7};
    job.next_sequence = 20;
    MemberRecord member;
    member.name = member.domain = member.data_address = "server-0";
    member.id = *ServerId::FromHex(std::string(32, 'a'));
    member.incarnation = *Incarnation::FromHex(std::string(32, 'b'));
    const std::string id(32, 'a');
    const std::vector<std::pair<std::string, std::string>> all = {
        {kClusterKey, EncodeStored(cluster)},
        {"member/" + id, EncodeStored(member)},
        {"job/gpt", EncodeStored(job)},
        {"token/gpt/" + id, EncodeStored(TokenRecord())},
        {OpenKey("gpt", 13), EncodeStored(open)},
        {StoredSnapshotKey("gpt", {1, 7}, 12), model::EncodeCommitRecord(record)},
        {"restore/gpt", EncodeStored(restore)}};
    for (const auto& [key, value] : all) {
      Versioned stored{Spoiled(value, choices), ++state_.version};
      if (choices->Below(4) != 0) {
        state_.values[choices->Below(8) == 0 ? Spoiled(key, choices) : key] = std::move(stored);
      }
    }
  }

  static std::string Spoiled(std::string value, Choices* choices) {
    for (size_t changes = choices->Below(3); changes > 0; --changes) {
      value[choices->Byte() % value.size()] = static_cast<char>(choices->Byte());
    }
    return value;
  }

  SimScheduler scheduler_;
  SimStoreState state_;
  bool recover_ = false;
  bool spoiled_ = false;
  size_t begun_ = 0;
  size_t answered_ = 0;
  size_t answered_ok_ = 0;
  absl::Status last_;  // of the newest answer
  PlacementRequests requests_;
  std::vector<std::shared_ptr<Call>> calls_;
  std::unique_ptr<Life> life_;
};

}  // namespace gemel
