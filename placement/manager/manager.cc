// SPDX-License-Identifier: Apache-2.0
#include "placement/manager/manager.h"

#include <utility>

#include "common/check.h"
#include "placement/manager/core.h"

namespace gemel {

PlacementManager::PlacementManager(std::unique_ptr<PlacementCore> core) : core_(std::move(core)) {}

PlacementManager::~PlacementManager() = default;

Task<absl::StatusOr<std::unique_ptr<PlacementManager>>> PlacementManager::Start(
    PlacementOptions options, PlacementSeams seams) {
  GEMEL_CHECK(seams.loop != nullptr && seams.random != nullptr && seams.store != nullptr);
  GEMEL_CHECK(seams.net != nullptr && seams.events != nullptr && seams.metrics != nullptr);
  auto core = std::make_unique<PlacementCore>(std::move(options), seams);
  const absl::Status loaded = co_await core->Load();
  GEMEL_CO_RETURN_IF_ERROR(loaded);
  core->Begin();
  co_return std::unique_ptr<PlacementManager>(new PlacementManager(std::move(core)));
}

Task<absl::StatusOr<std::string>> PlacementManager::Handle(std::shared_ptr<RpcCall> call,
                                                           std::string method,
                                                           std::string request) {
  return core_->Handle(std::move(call), std::move(method), std::move(request));
}

Task<void> PlacementManager::Stop() { return core_->Stop(); }

ClusterId PlacementManager::cluster() const { return core_->cluster(); }

std::string PlacementManager::Describe() const { return core_->Describe(); }

}  // namespace gemel
