// SPDX-License-Identifier: Apache-2.0
//
// gemel import SOURCE
#include <cstdio>
#include <nlohmann/json.hpp>

#include "client/archive/client_source.h"
#include "client/archive/importer.h"
#include "client/cli/archiving.h"
#include "client/cli/archiving_ground.h"
#include "client/cli/host_processes.h"
#include "client/cli/progress.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::cli {
namespace {

using Json = nlohmann::ordered_json;

// A file of others: the directory it lies in is the store.
void SplitFile(const std::string& source, std::string* folder, std::string* file) {
  *folder = source;
  if (source.ends_with(".safetensors") && !archive::IsS3Url(source)) {
    const size_t slash = source.rfind('/');
    *folder = slash == std::string::npos ? "." : source.substr(0, slash + 1);
    *file = slash == std::string::npos ? source : source.substr(slash + 1);
  }
}

void PrintDone(const archive::ImportResult& result, bool json) {
  const Json value = {{"job", result.job},
                      {"name", result.name},
                      {"sequence", result.sequence},
                      {"world_size", result.world_size},
                      {"bytes", result.bytes}};
  std::printf("%s\n",
              json ? value.dump(2).c_str()
                   : fmt::format("{}@{} (sequence {}) imported: {} shards, {} bytes", result.job,
                                 result.name, result.sequence, result.world_size, result.bytes)
                         .c_str());
}

}  // namespace

absl::StatusOr<int> Archiving::Import(const std::string& dir, bool json) {
  if (!archive::IsS3Url(target_) && Exists(target_ + "/.metadata")) {
    return ImportDcp(dir, json);
  }
  archive::ImportOptions options;
  std::string folder;
  SplitFile(target_, &folder, &options.file);
  options.job = job_;
  options.name = name_;
  options.takeover = takeover_;
  options.copies = copies_;
  options.strategy = strategy_ == "ring" ? Client::Strategy::kRing : Client::Strategy::kGroup;
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<Ground> ground, Prepare());
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<archive::Target> source,
                         OpenTarget(folder, ground->pace.get()));
  Progress progress(json);
  const auto watcher = [&](uint64_t done, uint64_t total, const std::string& what) {
    progress.Update(done, total, what);
  };
  GEMEL_ASSIGN_OR_RETURN(
      const archive::ImportPlan plan,
      archive::PlanImport(source->store(), ground->pace.get(), options, watcher));
  if (verify_only_) {
    progress.Finish();
    std::printf("%s\n", fmt::format("{}: whole; {} shards, {} bytes", target_, plan.shards.size(),
                                    plan.bytes())
                            .c_str());
    return 0;
  }
  GEMEL_ASSIGN_OR_RETURN(const std::vector<std::string> addresses, Addresses(dir));
  std::vector<Client> clients;
  clients.reserve(addresses.size());
  for (const std::string& address : addresses) {
    auto client = Client::Connect({.address = address});
    GEMEL_RETURN_IF_ERROR(archive::StatusOf(client.status()));
    options.clients.push_back(&clients.emplace_back(std::move(*client)));
  }
  absl::StatusOr<archive::ImportResult> result =
      archive::Import(source->store(), ground->pace.get(), plan, options, watcher);
  progress.Finish();
  GEMEL_RETURN_IF_ERROR(result.status());
  PrintDone(*result, json);
  return 0;
}

absl::StatusOr<int> Archiving::ImportDcp(const std::string& dir, bool json) {
  std::vector<std::string> arguments = {
      target_,      "--job",  job_, "--name", name_, "--copies", fmt::to_string(copies_),
      "--strategy", strategy_};
  if (job_.empty() || name_.empty()) {
    return error::InvalidArgument(
        "{} is a directory of torch's DCP, which does not say of which job and step it is: say "
        "--job and --name",
        target_);
  }
  if (takeover_) {
    arguments.emplace_back("--takeover");
  }
  return RunPython("gemel.torch.import_dcp", std::move(arguments), dir, json);
}

}  // namespace gemel::cli
