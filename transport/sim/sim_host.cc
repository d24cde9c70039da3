// SPDX-License-Identifier: Apache-2.0
#include "transport/sim/sim_host.h"

#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "transport/sim/sim_machine.h"
#include "transport/sim/sim_world.h"

namespace gemel {
namespace {

class SimMapping final : public Mapping {
 public:
  SimMapping(std::shared_ptr<SimMemory> memory, uint64_t bytes, SimMappingRecord record)
      : memory_(std::move(memory)), bytes_(bytes), number_(memory_->next_mapping++) {
    memory_->mappings.emplace(number_, record);
  }

  ~SimMapping() override { GEMEL_CHECK_EQ(memory_->mappings.erase(number_), 1U); }

  MutableByteSpan bytes() const override { return memory_->bytes().first(bytes_); }

  Access access() const override { return memory_->mappings.at(number_).access; }

  absl::Status Protect(Access access) override {
    SimMappingRecord& record = memory_->mappings.at(number_);
    record.access = access;
    record.protects += 1;
    return absl::OkStatus();
  }

 private:
  const std::shared_ptr<SimMemory> memory_;
  const uint64_t bytes_;
  const uint64_t number_;
};

class SimProcessHandle final : public SharedHandle {
 public:
  explicit SimProcessHandle(std::shared_ptr<SimNodeProcess> process)
      : process_(std::move(process)) {}

  int descriptor() const override { return -1; }

  const std::shared_ptr<SimNodeProcess>& process() const { return process_; }

 private:
  const std::shared_ptr<SimNodeProcess> process_;
};

// Attached to the process that is watched; lives in the process that watches.
class WatchState final : public SimPart, public std::enable_shared_from_this<WatchState> {
 public:
  WatchState(std::shared_ptr<SimNodeProcess> watcher, std::function<void()> exited)
      : watcher_(std::move(watcher)), exited_(std::move(exited)) {}

  void OnOwnerKilled() override {
    watcher_->Post([self = shared_from_this()] {
      if (std::function<void()> exited = std::exchange(self->exited_, nullptr)) {
        exited();
      }
    });
  }

  void OnLinkBroken(const std::string& /*a*/, const std::string& /*b*/) override {}

  void Stop() { exited_ = nullptr; }

 private:
  const std::shared_ptr<SimNodeProcess> watcher_;
  std::function<void()> exited_;
};

class SimExitWatch final : public ExitWatch {
 public:
  explicit SimExitWatch(std::shared_ptr<WatchState> state) : state_(std::move(state)) {}

  ~SimExitWatch() override { state_->Stop(); }

 private:
  const std::shared_ptr<WatchState> state_;  // shared with an exit that is being told
};

}  // namespace

SimHost::SimHost(std::shared_ptr<SimNodeProcess> process) : process_(std::move(process)) {
  GEMEL_CHECK(process_ != nullptr);
}

absl::StatusOr<std::shared_ptr<SharedHandle>> SimHost::CreateMemory(std::string name,
                                                                    uint64_t bytes) {
  GEMEL_CHECK(process_->alive());
  SimMachine* machine = process_->world()->machine(process_->node());
  absl::StatusOr<std::shared_ptr<SimMemory>> memory = machine->CreateMemory(std::move(name), bytes);
  if (!memory.ok()) {
    return memory.status();
  }
  return std::shared_ptr<SharedHandle>(*std::move(memory));
}

absl::StatusOr<std::unique_ptr<Mapping>> SimHost::Map(const std::shared_ptr<SharedHandle>& memory,
                                                      uint64_t bytes, Access access,
                                                      bool /*populate*/) {
  GEMEL_CHECK(process_->alive());
  auto of_machine = std::dynamic_pointer_cast<SimMemory>(memory);
  if (of_machine == nullptr || of_machine->node() != process_->node()) {
    return error::InvalidArgument("{} maps a handle that is not memory of its node",
                                  process_->ToString());
  }
  if (bytes == 0 || bytes > of_machine->bytes().size()) {
    return error::InvalidArgument("mapping {} bytes of memory '{}', which has {}", bytes,
                                  of_machine->name(), of_machine->bytes().size());
  }
  SimMappingRecord record;
  record.pid = process_->pid();
  record.access = access;
  return std::make_unique<SimMapping>(std::move(of_machine), bytes, record);
}

absl::StatusOr<std::shared_ptr<SharedHandle>> SimHost::OwnProcess() {
  return std::make_shared<SimProcessHandle>(process_);
}

absl::StatusOr<std::unique_ptr<ExitWatch>> SimHost::WatchExit(
    const std::shared_ptr<SharedHandle>& process, std::function<void()> exited) {
  GEMEL_CHECK(process_->alive() && exited != nullptr);
  auto handle = std::dynamic_pointer_cast<SimProcessHandle>(process);
  if (handle == nullptr || handle->process()->node() != process_->node()) {
    return error::InvalidArgument("{} watches a handle that is not a process of its node",
                                  process_->ToString());
  }
  auto state = std::make_shared<WatchState>(process_, std::move(exited));
  if (handle->process()->alive()) {
    handle->process()->Attach(state);
  } else {
    state->OnOwnerKilled();
  }
  return std::make_unique<SimExitWatch>(std::move(state));
}

absl::StatusOr<uint64_t> SimHost::LivingPid(const std::shared_ptr<SharedHandle>& process) {
  auto handle = std::dynamic_pointer_cast<SimProcessHandle>(process);
  if (handle == nullptr || handle->process()->node() != process_->node()) {
    return error::InvalidArgument("{} asks for the pid of what is no process of its node",
                                  process_->ToString());
  }
  return handle->process()->alive() ? handle->process()->pid() : 0;
}

}  // namespace gemel
