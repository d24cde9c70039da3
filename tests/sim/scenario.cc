// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/scenario.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>

#include "common/check.h"
#include "tests/sim/convergence.h"
#include "tests/sim/strikes.h"

namespace gemel::sim {
namespace {

constexpr Duration kTick = 20ms;
constexpr uint64_t kTicksPerDiskDigest = 10;

class Run {
 public:
  explicit Run(const ScenarioOptions& options);

  ScenarioResult Go();

 private:
  void Step();
  void StepUntil(TimePoint end);
  Phase PhaseNow() const;
  void CountFaults();
  bool Over() const;
  ScenarioResult Result();

  const ScenarioOptions options_;
  const RunPlan plan_;
  SimPoints points_;
  Cluster cluster_;
  GroundTruth truth_;
  Oracle oracle_;
  Strikes::Jobs jobs_;
  Strikes strikes_;
  FaultLedger ledger_;
  FaultCounts counted_{};
  Phase phase_ = Phase::kRestore;
  uint64_t ticks_ = 0;
};

Run::Run(const ScenarioOptions& options)
    : options_(options),
      plan_(DrawPlan(options)),
      points_(Random(options.seed).Split("buggify"), plan_.Has(Fault::kBuggify)),
      cluster_(options.seed, plan_.shape),
      truth_(&cluster_),
      oracle_(&cluster_, &truth_, plan_.jobs),
      strikes_(plan_, &cluster_, &oracle_, &jobs_, &points_) {
  for (const JobPlan& job : plan_.jobs) {
    const Random random = Random(options.seed).Split(job.name);
    jobs_.push_back(std::make_unique<SimJob>(&cluster_, &oracle_, job, random));
  }
}

bool Run::Over() const {
  const TimePoint now = cluster_.now();
  return !oracle_.violations().empty() ||
         (options_.until.has_value() && now >= TimePoint(*options_.until));
}

Phase Run::PhaseNow() const {
  if (oracle_.overkill()) {
    return Phase::kOverkill;
  }
  const bool saving =
      std::all_of(jobs_.begin(), jobs_.end(), [](const auto& job) { return job->saving(); });
  if (!saving) {
    return Phase::kRestore;
  }
  return strikes_.Degraded() ? Phase::kRepair : Phase::kSave;
}

// To the phase that they struck in, not to the one that they made.
void Run::CountFaults() {
  const FaultCounts now = strikes_.Counts();
  ledger_.AddGrowth(counted_, now, phase_);
  counted_ = now;
  phase_ = PhaseNow();
}

// One tick of the world, with all that is due from outside.
void Run::Step() {
  SimScheduler* scheduler = cluster_.scheduler();
  scheduler->RunUntil([] { return false; }, scheduler->now() + kTick);
  oracle_.CheckHolders();
  strikes_.Tick();
  for (const std::unique_ptr<SimJob>& job : jobs_) {
    job->Tick();
  }
  for (std::string& wrong : truth_.CheckMemory()) {
    oracle_.Violation(std::move(wrong));
  }
  if (cluster_.Leaders() > 1) {
    oracle_.Violation("leaders: two managers would answer a call at the same time");
  }
  ticks_ += 1;
  if (ticks_ % kTicksPerDiskDigest == 0) {
    cluster_.MixDisks();
    const bool hurt = plan_.Has(Fault::kDiskRot) || plan_.Has(Fault::kTornWrites);
    for (std::string& wrong : truth_.CheckDisks(hurt)) {
      oracle_.Violation(std::move(wrong));
    }
  }
  CountFaults();
}

void Run::StepUntil(TimePoint end) {
  while (!Over() && cluster_.scheduler()->now() < end) {
    Step();
  }
}

ScenarioResult Run::Go() {
  SimScheduler* scheduler = cluster_.scheduler();
  for (uint32_t manager = 0; manager < cluster_.managers(); ++manager) {
    cluster_.StartPlacement(manager);
  }
  for (const uint32_t server : strikes_.Members()) {
    cluster_.StartServer(server);
  }
  strikes_.Begin();
  StepUntil(scheduler->now() + options_.fault_phase);
  if (plan_.overkill && !Over()) {
    strikes_.BeginOverkill();
    StepUntil(scheduler->now() + std::min(kOverkillPhase, options_.fault_phase));
  }
  if (!Over()) {
    Convergence::Hurt hurt;
    hurt.memory = ledger_.Sum(Fault::kMemoryRot) + ledger_.Sum(Fault::kRotEverywhere) > 0 &&
                  plan_.shape.scrub_pass == 0s;
    hurt.refused = ledger_.Sum(Fault::kFullDisk) + ledger_.Sum(Fault::kFsyncErrors) > 0;
    for (const Fault fault : {Fault::kReformat, Fault::kRollBack, Fault::kDiskRot,
                              Fault::kTornWrites, Fault::kMembers}) {
      hurt.disks = hurt.disks || plan_.Has(fault);
    }
    hurt.disks = hurt.disks || oracle_.overkill();
    strikes_.HealAll();
    points_.Calm();
    CountFaults();
    const Convergence::World world{[this] { Step(); }, [this] { return Over(); }};
    Convergence convergence(&cluster_, &oracle_, &truth_, &jobs_, world);
    convergence.Check(hurt);
  }
  oracle_.CheckCalls(plan_.Has(Fault::kLateCalls));
  return Result();
}

ScenarioResult Run::Result() {
  ScenarioResult result;
  const SimScheduler* scheduler = cluster_.scheduler();
  result.violations = oracle_.violations();
  result.history_hash = scheduler->history_hash();
  result.plan = Describe(plan_);
  result.lines = cluster_.timeline().Lines();
  result.columns = cluster_.timeline().Columns();
  ScenarioCounts& counts = result.counts;
  counts.events = scheduler->events_run();
  counts.virtual_ms = static_cast<uint64_t>(Milliseconds(scheduler->now().time_since_epoch()));
  counts.commits = oracle_.commits();
  counts.restores = oracle_.restores();
  counts.persists = oracle_.persists();
  counts.losses_told = oracle_.losses_told();
  counts.stale_refused = oracle_.stale_refused();
  counts.servers_killed = strikes_.servers_killed();
  counts.power_cuts = strikes_.power_cuts();
  counts.overkills = oracle_.overkill() ? 1 : 0;
  counts.undecided = oracle_.undecided() ? 1 : 0;
  for (const std::unique_ptr<SimJob>& job : jobs_) {
    counts.launches += job->launches();
  }
  counts.faults = ledger_;
  counts.buggify = points_.fired();
  counts.situations = points_.met();
  return result;
}

template <size_t size>
void AddUp(std::array<uint64_t, size>* sum, const std::array<uint64_t, size>& more) {
  for (size_t i = 0; i < size; ++i) {
    (*sum)[i] += more[i];
  }
}

}  // namespace

void ScenarioCounts::Add(const ScenarioCounts& other) {
  events += other.events;
  virtual_ms += other.virtual_ms;
  commits += other.commits;
  restores += other.restores;
  persists += other.persists;
  launches += other.launches;
  servers_killed += other.servers_killed;
  power_cuts += other.power_cuts;
  losses_told += other.losses_told;
  stale_refused += other.stale_refused;
  overkills += other.overkills;
  undecided += other.undecided;
  faults.Add(other.faults);
  AddUp(&buggify, other.buggify);
  AddUp(&situations, other.situations);
}

ScenarioResult RunScenario(const ScenarioOptions& options) { return Run(options).Go(); }

}  // namespace gemel::sim
