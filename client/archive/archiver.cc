// SPDX-License-Identifier: Apache-2.0
#include "client/archive/archiver.h"

#include <algorithm>
#include <set>
#include <vector>

#include "client/archive/export_reader.h"
#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "common/xxh3.h"

namespace gemel::archive {
namespace {

constexpr Duration kLookEvery = 1s;
constexpr Duration kAgainFirst = 2s;
constexpr Duration kAgainMax = 60s;
constexpr Duration kSameWarningEvery = 60s;
constexpr size_t kSequenceDigits = 20;

std::string PathOf(const SnapshotSupply::Newest& newest) {
  return fmt::format("{:0{}}-{}", newest.sequence, kSequenceDigits, newest.name);
}

// True for what PathOf() makes: nothing else below the job is ever removed.
bool IsExportPath(const std::string& path) {
  return path.size() > kSequenceDigits + 1 && path[kSequenceDigits] == '-' &&
         std::all_of(path.begin(), path.begin() + kSequenceDigits,
                     [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

Archiver::Archiver(SnapshotSupply* supply, ObjectStore* store, Pace* pace, ArchiveOptions options,
                   Listener listener)
    : supply_(supply),
      store_(store),
      pace_(pace),
      options_(std::move(options)),
      listener_(std::move(listener)),
      folder_(options_.job + "/") {
  GEMEL_CHECK(supply_ != nullptr && store_ != nullptr && pace_ != nullptr);
  GEMEL_CHECK(!options_.job.empty());
  GEMEL_CHECK_GE(options_.every, 1U);
}

absl::Status Archiver::ReadLatest() {
  absl::StatusOr<std::string> text = GetObject(store_, folder_ + kLatestName, kRecordBytesMax);
  if (absl::IsNotFound(text.status())) {
    latest_.reset();
    return absl::OkStatus();
  }
  GEMEL_RETURN_IF_ERROR(text.status());
  absl::StatusOr<Latest> latest = DecodeLatest(*text);
  if (!latest.ok() || latest->job != options_.job) {
    return error::FailedPrecondition(
        "{} is not the archive of job '{}' ({}): name another target, or remove that file",
        store_->Where(folder_ + kLatestName), options_.job,
        latest.ok() ? "of job '" + latest->job + "'" : std::string(MessageOf(latest.status())));
  }
  latest_ = std::move(*latest);
  return absl::OkStatus();
}

bool Archiver::IsDue(const SnapshotSupply::Newest& newest) {
  if (archived_at_.has_value() && pace_->Now() < Add(*archived_at_, options_.interval)) {
    return false;
  }
  if (!latest_.has_value()) {
    return true;
  }
  const ArchivedExport& last = latest_->exports.back();
  // Another cluster counts anew.
  return newest.cluster != last.cluster || newest.sequence >= last.sequence + options_.every;
}

absl::StatusOr<ArchivedExport> Archiver::ExportOne(const SnapshotSupply::Newest& newest) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<SnapshotSource> source,
                         supply_->Open(options_.job, newest.name));
  // The name may have been saved again since: what was opened counts.
  const SnapshotSupply::Newest opened{source->facts().cluster, source->facts().name,
                                      source->facts().sequence};
  const std::string path = PathOf(opened);
  GEMEL_CHECK(IsExportPath(path)) << path;
  const std::string prefix = folder_ + path + "/";
  GEMEL_ASSIGN_OR_RETURN(
      const ExportResult result,
      Export(source.get(), store_, pace_, {.prefix = prefix, .file_bytes = options_.file_bytes},
             listener_.watcher));
  source.reset();  // nothing more is read from the cluster: its memory is free again
  for (const std::string& warning : result.warnings) {
    Warn(warning);
  }
  GEMEL_ASSIGN_OR_RETURN(const std::string record,
                         GetObject(store_, prefix + kRecordName, kRecordBytesMax));
  if (record != EncodeRecord(result.record, RecordKind::kComplete)) {
    return error::DataLoss("{} is not what was written", store_->Where(prefix + kRecordName));
  }
  if (options_.verify) {
    GEMEL_RETURN_IF_ERROR(VerifyExport(store_, pace_, prefix, result.record, listener_.watcher));
  }
  return ArchivedExport{path,         opened.cluster,           opened.name, opened.sequence,
                        result.bytes, Xxh3_128(AsBytes(record))};
}

absl::Status Archiver::Name(ArchivedExport archived) {
  Latest latest{options_.job, {}};
  for (const ArchivedExport& entry :
       latest_.has_value() ? latest_->exports : std::vector<ArchivedExport>()) {
    if (entry.path != archived.path) {
      latest.exports.push_back(entry);
    }
  }
  latest.exports.push_back(std::move(archived));
  if (options_.keep > 0 && latest.exports.size() > options_.keep) {
    const auto old = static_cast<ptrdiff_t>(latest.exports.size() - options_.keep);
    latest.exports.erase(latest.exports.begin(), latest.exports.begin() + old);
  }
  GEMEL_RETURN_IF_ERROR(PutObject(store_, folder_ + kLatestName, EncodeLatest(latest)));
  latest_ = std::move(latest);
  return absl::OkStatus();
}

absl::Status Archiver::RemoveExport(const std::string& path,
                                    const std::vector<ObjectInfo>& objects) {
  GEMEL_CHECK(IsExportPath(path)) << path;
  const std::string prefix = folder_ + path + "/";
  // What makes it an export goes first: cut short here, it is one that is not complete.
  GEMEL_RETURN_IF_ERROR(store_->Remove(prefix + kRecordName));
  for (const ObjectInfo& object : objects) {
    if (object.key.starts_with(prefix) && IsExportFile(object.key.substr(prefix.size()))) {
      GEMEL_RETURN_IF_ERROR(store_->Remove(object.key));
    }
  }
  return absl::OkStatus();
}

// Removes what latest.json does not name (any more): exports beyond `keep`, and beginnings whose
// snapshot was gone before they were complete.
absl::Status Archiver::Sweep() {
  GEMEL_CHECK(latest_.has_value());
  std::set<std::string> named;
  for (const ArchivedExport& entry : latest_->exports) {
    named.insert(entry.path);
  }
  GEMEL_RETURN_IF_ERROR(store_->RemoveUnfinished(folder_));
  GEMEL_ASSIGN_OR_RETURN(const std::vector<ObjectInfo> objects, store_->List(folder_));
  std::set<std::string> gone;
  for (const ObjectInfo& object : objects) {
    const std::string below = object.key.substr(folder_.size());
    const std::string path = below.substr(0, below.find('/'));
    if (path != below && IsExportPath(path) && named.count(path) == 0) {
      gone.insert(path);
    }
  }
  for (const std::string& path : gone) {
    GEMEL_RETURN_IF_ERROR(RemoveExport(path, objects));
  }
  swept_ = true;
  return absl::OkStatus();
}

absl::StatusOr<bool> Archiver::Step() {
  GEMEL_ASSIGN_OR_RETURN(const std::optional<SnapshotSupply::Newest> newest,
                         supply_->FindNewest(options_.job));
  if (!newest.has_value()) {
    return options_.once ? absl::StatusOr<bool>(error::NotFound(
                               "job '{}' has no committed snapshot here; `gemel jobs` names those "
                               "that have",
                               options_.job))
                         : absl::StatusOr<bool>(false);
  }
  if (!latest_.has_value()) {
    GEMEL_RETURN_IF_ERROR(ReadLatest());
  }
  if (!IsDue(*newest)) {
    // What a process that died in between had still to remove.
    GEMEL_RETURN_IF_ERROR(latest_.has_value() && !swept_ ? Sweep() : absl::OkStatus());
    return false;
  }
  GEMEL_RETURN_IF_ERROR(ReadLatest());
  GEMEL_ASSIGN_OR_RETURN(const ArchivedExport archived, ExportOne(*newest));
  GEMEL_RETURN_IF_ERROR(Name(archived));
  archived_at_ = pace_->Now();
  swept_ = false;
  listener_.archived(archived);
  GEMEL_RETURN_IF_ERROR(Sweep());
  return true;
}

void Archiver::Warn(const std::string& text) {
  if (text == warned_ && pace_->Now() < Add(warned_at_, kSameWarningEvery)) {
    return;
  }
  warned_ = text;
  warned_at_ = pace_->Now();
  listener_.warned(text);
}

absl::Status Archiver::Run() {
  Duration again = kAgainFirst;
  while (!pace_->stopping()) {
    const absl::StatusOr<bool> done = Step();
    if (options_.once) {
      return done.status();
    }
    if (done.ok()) {
      again = kAgainFirst;
      pace_->Pause(kLookEvery);
      continue;
    }
    if (absl::IsCancelled(done.status())) {
      continue;
    }
    Warn(fmt::format("{} (trying again)", MessageOf(done.status())));
    pace_->Pause(again);
    again = std::min<Duration>(2 * again, kAgainMax);
  }
  return absl::OkStatus();
}

}  // namespace gemel::archive
