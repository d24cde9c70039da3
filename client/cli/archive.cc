// SPDX-License-Identifier: Apache-2.0
//
// gemel archive JOB --to TARGET
#include <cstdio>
#include <nlohmann/json.hpp>

#include "client/archive/archiver.h"
#include "client/archive/client_supply.h"
#include "client/cli/archiving.h"
#include "client/cli/archiving_ground.h"
#include "client/cli/progress.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::cli {
namespace {

using Json = nlohmann::ordered_json;

void PrintArchived(const archive::ArchivedExport& archived, const std::string& target, bool json) {
  const Json value = {{"name", archived.name},
                      {"sequence", archived.sequence},
                      {"path", archived.path},
                      {"bytes", archived.bytes}};
  std::printf("%s\n", json ? value.dump().c_str()
                           : fmt::format("archived step {} (sequence {}, {} bytes) in {}: {}",
                                         archived.name, archived.sequence, archived.bytes, target,
                                         archived.path)
                                 .c_str());
  std::fflush(stdout);
}

}  // namespace

absl::StatusOr<int> Archiving::Archive(const std::string& dir, bool json) {
  archive::ArchiveOptions options;
  options.job = what_;
  options.every = every_;
  options.keep = keep_;
  options.once = once_;
  options.verify = verify_;
  GEMEL_ASSIGN_OR_RETURN(options.interval, ParseDuration(interval_));
  if (what_.empty() || what_.find('@') != std::string::npos) {
    return error::InvalidArgument("'{}': a job is archived, not a step; `gemel export` writes one",
                                  what_);
  }
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<Ground> ground, Prepare());
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<archive::Target> target,
                         OpenTarget(target_, ground->pace.get()));
  GEMEL_ASSIGN_OR_RETURN(const std::vector<std::string> addresses, Addresses(dir));
  archive::ClientSupply supply(addresses[0]);
  Progress progress(json);
  archive::Archiver::Listener listener;
  listener.archived = [&](const archive::ArchivedExport& archived) {
    progress.Finish();
    PrintArchived(archived, target_, json);
  };
  listener.warned = [&](const std::string& text) {
    progress.Finish();
    std::fprintf(stderr, "gemel archive: warning: %s\n", text.c_str());
  };
  listener.watcher = [&](uint64_t done, uint64_t total, const std::string& what) {
    progress.Update(done, total, what);
  };
  archive::Archiver archiver(&supply, target->store(), ground->pace.get(), options, listener);
  GEMEL_RETURN_IF_ERROR(archiver.Run());
  return 0;
}

}  // namespace gemel::cli
