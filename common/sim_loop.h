// SPDX-License-Identifier: Apache-2.0
//
// SimScheduler and SimLoop: all loops of a simulated cluster on one thread and one virtual time
// line. Events run in the order (time, sequence number), so a run is a function of its seed alone.
//
// Thread safety: one thread.
// Ownership: a SimLoop registers with its scheduler and must not outlive it.
// Invariants:
//   (1) virtual time never goes back, nor does any loop's clock;
//   (2) events of a dead loop never run; events of a paused loop run after Resume(), in order;
//   (3) a timer never fires before its loop's own clock says so.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "common/loop.h"

namespace gemel {

class SimLoop;

class SimScheduler {
 public:
  TimePoint now() const { return now_; }

  // Schedules an event of the world itself (a fault, a delivery): never paused, never dropped.
  void At(TimePoint when, Loop::Callback callback) {
    Insert(when, Event{nullptr, Loop::kNoTimer, std::move(callback)});
  }

  // Runs the next event; false when there is none at or before `limit` (time then moves to
  // `limit`).
  bool RunOne(TimePoint limit);
  // Runs events until `done`, the limit, or nothing is left. True when done.
  bool RunUntil(const std::function<bool()>& done, TimePoint limit);

  uint64_t events_run() const { return events_run_; }

  // Whose event is running; null: an event of the world itself, or none.
  const SimLoop* running() const { return running_; }

  // A running hash of (time, sequence) of all events: equal seeds must give equal hashes.
  uint64_t history_hash() const { return history_hash_; }

  // Mixes a fact of the run (a payload digest, a decision) into history_hash().
  void MixIntoHistory(uint64_t fact);

 private:
  friend class SimLoop;
  using Key = std::pair<TimePoint, uint64_t>;

  struct Event {
    SimLoop* loop = nullptr;
    Loop::TimerId timer = Loop::kNoTimer;
    Loop::Callback callback;
    TimePoint due{};  // on the loop's clock
  };

  Key Insert(TimePoint when, Event event);

  TimePoint now_{};
  uint64_t next_sequence_ = 1;
  uint64_t events_run_ = 0;
  const SimLoop* running_ = nullptr;
  uint64_t history_hash_ = 0x9e3779b97f4a7c15ULL;
  std::map<Key, Event> events_;
};

class SimLoop final : public Loop {
 public:
  explicit SimLoop(SimScheduler* scheduler) : scheduler_(scheduler) {}

  ~SimLoop() override;

  // SIGSTOP and SIGCONT: what came due meanwhile runs at the resume, in order.
  void Pause() { paused_ = true; }

  void Resume();

  bool paused() const { return paused_; }

  // Ends the loop: events dropped, tasks destroyed. What kill -9 does to a process.
  void Kill();

  // This node's monotonic clock goes at rate_permille / 1000 of the world's time from here on;
  // timers keep their time on it. REQUIRES: rate_permille > 0.
  void SetClockRate(uint32_t rate_permille);

  // Its wall clock is that many seconds off.
  void set_wall_offset_s(int64_t seconds) { wall_offset_s_ = seconds; }

  // A slow CPU: every event keeps the loop busy for that long.
  void set_turn_cost(Duration cost) { turn_cost_ = cost; }

  // Events that had to wait for the CPU.
  uint64_t busy_delays() const { return busy_delays_; }

  TimePoint Now() const override { return ToLocal(scheduler_->now()); }

  // The moment of the world at which this loop's clock shows `local`, and the other way round.
  TimePoint ToWorld(TimePoint local) const;
  TimePoint ToLocal(TimePoint world) const;

  int64_t WallSeconds() const override;
  void Post(Callback callback) override;

  void PostFromAnyThread(Callback callback) override { Post(std::move(callback)); }

  TimerId RunAt(TimePoint when, Callback callback) override;
  void CancelTimer(TimerId timer) override;

  bool OnLoopThread() const override { return true; }

 private:
  friend class SimScheduler;
  void DropEvents();

  static constexpr uint32_t kTrueRate = 1000;

  SimScheduler* scheduler_;
  bool paused_ = false;
  uint32_t rate_permille_ = kTrueRate;
  TimePoint rate_since_world_{};
  TimePoint rate_since_local_{};
  int64_t wall_offset_s_ = 0;
  Duration turn_cost_{};
  TimePoint busy_until_{};
  uint64_t busy_delays_ = 0;
  TimerId next_timer_ = 1;
  std::map<TimerId, SimScheduler::Key> pending_;               // where each event waits
  std::map<SimScheduler::Key, SimScheduler::Event> deferred_;  // came due while paused
};

}  // namespace gemel
