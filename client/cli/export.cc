// SPDX-License-Identifier: Apache-2.0
//
// gemel export JOB[@STEP] TARGET
#include <cstdio>
#include <nlohmann/json.hpp>

#include "client/archive/client_source.h"
#include "client/archive/export_reader.h"
#include "client/archive/exporter.h"
#include "client/cli/archiving.h"
#include "client/cli/archiving_ground.h"
#include "client/cli/progress.h"
#include "client/cli/queries.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kMiBAsDouble = static_cast<double>(kMiB);

Json JsonOf(const archive::ExportRecord& record, const std::string& target) {
  Json json = {{"job", record.snapshot.job},
               {"name", record.snapshot.name},
               {"sequence", record.snapshot.sequence},
               {"world_size", record.snapshot.shards.size()},
               {"target", target}};
  json["files"] = Json::array();
  for (const archive::FileFacts& file : record.files) {
    json["files"].push_back(
        {{"name", file.name}, {"bytes", file.bytes}, {"xxh3_128", ToHex(file.digest)}});
  }
  return json;
}

void PrintDone(const archive::ExportResult& result, const std::string& target, bool json) {
  if (json) {
    Json value = JsonOf(result.record, target);
    value["bytes"] = result.bytes;
    value["kept_bytes"] = result.kept_bytes;
    value["was_complete"] = result.was_complete;
    value["warnings"] = result.warnings;
    std::printf("%s\n", value.dump(2).c_str());
    return;
  }
  for (const std::string& warning : result.warnings) {
    std::fprintf(stderr, "gemel export: warning: %s\n", warning.c_str());
  }
  std::printf(
      "%s\n",
      fmt::format("{} {} {}: {} files, {:.1f} MiB{}", result.record.snapshot.ToString(),
                  result.was_complete ? "was already whole in" : "exported to", target,
                  result.record.files.size(), static_cast<double>(result.bytes) / kMiBAsDouble,
                  result.kept_bytes > 0
                      ? fmt::format(", {:.1f} MiB of it by an earlier run",
                                    static_cast<double>(result.kept_bytes) / kMiBAsDouble)
                      : "")
          .c_str());
}

}  // namespace

absl::StatusOr<int> Archiving::VerifyTarget(bool json) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<Ground> ground, Prepare());
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<archive::Target> target,
                         OpenTarget(target_, ground->pace.get()));
  GEMEL_ASSIGN_OR_RETURN(const archive::ExportRecord record,
                         archive::ReadRecord(target->store(), ""));
  const JobAndName wanted = SplitJobAndName(what_);
  if ((!wanted.job.empty() && wanted.job != record.snapshot.job) ||
      (!wanted.name.empty() && wanted.name != record.snapshot.name)) {
    return error::FailedPrecondition("{} holds the export of {}, not of {}", target_,
                                     record.snapshot.ToString(), what_);
  }
  Progress progress(json);
  GEMEL_RETURN_IF_ERROR(
      archive::VerifyExport(target->store(), ground->pace.get(), "", record,
                            [&](uint64_t done, uint64_t total, const std::string& what) {
                              progress.Update(done, total, what);
                            }));
  progress.Finish();
  std::printf("%s\n", json ? JsonOf(record, target_).dump(2).c_str()
                           : fmt::format("{}: {} files of {} are whole", target_,
                                         record.files.size(), record.snapshot.ToString())
                                 .c_str());
  return 0;
}

absl::StatusOr<int> Archiving::Export(const std::string& dir, bool json) {
  if (format_ == "dcp") {
    return ExportDcp(dir, json);
  }
  if (verify_only_) {
    return VerifyTarget(json);
  }
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<Ground> ground, Prepare());
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<archive::Target> target,
                         OpenTarget(target_, ground->pace.get()));
  GEMEL_ASSIGN_OR_RETURN(const std::vector<std::string> addresses, Addresses(dir));
  auto client = Client::Connect({.address = addresses[0]});
  GEMEL_RETURN_IF_ERROR(archive::StatusOf(client.status()));
  const JobAndName wanted = SplitJobAndName(what_);
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<archive::ClientSource> source,
                         archive::ClientSource::Open(&*client, wanted.job, wanted.name));
  Progress progress(json);
  absl::StatusOr<archive::ExportResult> result =
      archive::Export(source.get(), target->store(), ground->pace.get(), {.force = force_},
                      [&](uint64_t done, uint64_t total, const std::string& what) {
                        progress.Update(done, total, what);
                      });
  progress.Finish();
  GEMEL_RETURN_IF_ERROR(result.status());
  PrintDone(*result, target_, json);
  return 0;
}

absl::StatusOr<int> Archiving::ExportDcp(const std::string& dir, bool json) {
  if (archive::IsS3Url(target_)) {
    return error::InvalidArgument(
        "--format dcp writes to a directory: torch's writer does; for a bucket use --format "
        "safetensors");
  }
  std::vector<std::string> arguments = {what_, target_};
  if (force_) {
    arguments.emplace_back("--force");
  }
  return RunPython("gemel.torch.export", std::move(arguments), dir, json);
}

}  // namespace gemel::cli
