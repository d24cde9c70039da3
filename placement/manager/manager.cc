// SPDX-License-Identifier: Apache-2.0
#include "placement/manager/manager.h"

#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "placement/manager/core.h"
#include "placement/manager/leadership.h"

namespace gemel {
namespace {

constexpr Duration kLoadAgain = 500ms;

}  // namespace

PlacementManager::PlacementManager(PlacementOptions options, PlacementSeams seams)
    : options_(std::move(options)),
      seams_(seams),
      gate_(seams.loop),
      leadership_(std::make_unique<Leadership>(options_, seams)) {}

PlacementManager::~PlacementManager() = default;

Task<absl::StatusOr<std::unique_ptr<PlacementManager>>> PlacementManager::Start(
    PlacementOptions options, PlacementSeams seams) {
  GEMEL_CHECK(seams.loop != nullptr && seams.random != nullptr && seams.store != nullptr);
  GEMEL_CHECK(seams.net != nullptr && seams.events != nullptr && seams.metrics != nullptr);
  std::unique_ptr<PlacementManager> manager(new PlacementManager(std::move(options), seams));
  if (manager->options_.shared_store) {
    seams.loop->Spawn(manager->TakeTurns());
    co_return std::move(manager);
  }
  const absl::Status started = co_await manager->StartAlone();
  GEMEL_CO_RETURN_IF_ERROR(started);
  co_return std::move(manager);
}

Task<absl::Status> PlacementManager::StartAlone() {
  GEMEL_CO_RETURN_IF_ERROR(co_await leadership_->Seize());
  auto core = std::make_unique<PlacementCore>(options_, seams_, leadership_.get());
  GEMEL_CO_RETURN_IF_ERROR(co_await core->Load());
  core->Begin();
  core_ = std::move(core);
  co_return absl::OkStatus();
}

// Standby, leader, and standby again.
Task<void> PlacementManager::TakeTurns() {
  const Gate::Pass pass = gate_.Enter();
  while (pass && !stopping_) {
    const absl::Status led = co_await LeadOnce();
    if (!led.ok() && !stopping_) {
      seams_.events->Emit(Severity::kError, "placement_not_loaded", ToText(led));
      co_await seams_.loop->Sleep(kLoadAgain);
    }
  }
}

Task<absl::Status> PlacementManager::LeadOnce() {
  GEMEL_CHECK(core_ == nullptr);
  const absl::Status won = co_await leadership_->Campaign();
  GEMEL_CO_RETURN_IF_ERROR(won);
  seams_.loop->Spawn(leadership_->Beat());
  auto core = std::make_unique<PlacementCore>(options_, seams_, leadership_.get());
  const absl::Status loaded = co_await core->Load();
  if (!loaded.ok()) {
    co_await leadership_->Resign();  // another one may read what this one cannot
    co_return loaded;
  }
  core->Begin();
  GEMEL_CHECK(core_ == nullptr && options_.shared_store);
  core_ = std::move(core);
  co_await leadership_->WaitUntilDeposed();
  co_await core_->Stop();
  core_.reset();
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::string>> PlacementManager::Handle(std::shared_ptr<RpcCall> call,
                                                           std::string method,
                                                           std::string request) {
  const Gate::Pass pass = gate_.Enter();
  if (!pass || stopping_) {
    co_return error::Unavailable("placement is stopping; try again when it is back");
  }
  if (core_ == nullptr || !leadership_->Leads()) {
    co_return leadership_->NotLeading();
  }
  absl::StatusOr<std::string> answer =
      co_await core_->Handle(std::move(call), std::move(method), std::move(request));
  if (answer.ok() && !leadership_->Leads()) {
    // What was read may be old by now; what was written is durable, or was refused.
    co_return error::Unavailable("placement {} stopped leading during the call; ask again",
                                 options_.name);
  }
  co_return answer;
}

Task<void> PlacementManager::Stop() {
  stopping_ = true;
  if (core_ != nullptr) {
    co_await core_->Stop();
  }
  if (options_.shared_store) {
    co_await leadership_->Resign();
  }
  leadership_->Stop();
  co_await gate_.Close();
}

ClusterId PlacementManager::cluster() const {
  return core_ == nullptr ? ClusterId() : core_->cluster();
}

bool PlacementManager::leads() const { return core_ != nullptr && leadership_->Leads(); }

PlacementBeliefs PlacementManager::Beliefs() const {
  return core_ == nullptr ? PlacementBeliefs() : core_->Beliefs();
}

std::string PlacementManager::Describe() const {
  return core_ == nullptr ? leadership_->Describe()
                          : fmt::format("{}, {}", core_->Describe(), leadership_->Describe());
}

}  // namespace gemel
