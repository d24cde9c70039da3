// SPDX-License-Identifier: Apache-2.0
#include "client/archive/export_record.h"

#include <nlohmann/json.hpp>
#include <set>

#include "client/archive/json_text.h"
#include "client/archive/layout.h"
#include "common/check.h"
#include "common/disk.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::archive {
namespace {

using Json = nlohmann::ordered_json;  // as people read it: few names, in the order of the document
using Parsed = nlohmann::json;

constexpr int kVersion = 1;
constexpr size_t kDepthMax = 4;
constexpr size_t kTextBytesMax = 4096;
constexpr const char* kCompleteFormat = "gemel.export";
constexpr const char* kPartialFormat = "gemel.export.partial";
constexpr const char* kLatestFormat = "gemel.archive.latest";

// Reads fields of one object; the first error sticks and names its field.
class Reader {
 public:
  Reader(const Parsed& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json_.is_object()) {
      Fail("", "is not an object");
    }
  }

  std::string Text(const char* field) {
    const Parsed* found = Find(field);
    if (found == nullptr || !found->is_string() ||
        found->get_ref<const std::string&>().size() > kTextBytesMax) {
      Fail(field, "is not a short string");
      return "";
    }
    return found->get<std::string>();
  }

  uint64_t Number(const char* field) {
    const Parsed* found = Find(field);
    if (found == nullptr || !found->is_number_unsigned()) {
      Fail(field, "is not a number");
      return 0;
    }
    return found->get<uint64_t>();
  }

  Digest128 Digest(const char* field) {
    const absl::StatusOr<Digest128> digest = DigestFromHex(Text(field));
    if (!digest.ok()) {
      Fail(field, "is not a digest of 32 hexadecimal digits");
    }
    return digest.ok() ? *digest : Digest128();
  }

  const Parsed& List(const char* field, size_t count_max) {
    static const Parsed kNothing = Parsed::array();
    const Parsed* found = Find(field);
    if (found == nullptr || !found->is_array() || found->size() > count_max) {
      Fail(field, "is not a list, or too long");
      return kNothing;
    }
    return *found;
  }

  void Fail(const std::string& field, std::string_view what) {
    if (status_.ok()) {
      status_ = error::InvalidArgument("{}{}{} {}", where_, field.empty() ? "" : ".", field, what);
    }
  }

  const absl::Status& status() const { return status_; }

 private:
  const Parsed* Find(const char* field) {
    const auto found = json_.is_object() ? json_.find(field) : json_.end();
    return found == json_.end() ? nullptr : &*found;
  }

  const Parsed& json_;
  const std::string where_;
  absl::Status status_;
};

absl::StatusOr<Parsed> ParseAs(std::string_view text, const char* format, const char* file) {
  if (text.size() > kRecordBytesMax) {
    return error::InvalidArgument("{}: {} bytes, at most {}", file, text.size(), kRecordBytesMax);
  }
  GEMEL_ASSIGN_OR_RETURN(Parsed json, ParseJson(text, file, kDepthMax));
  Reader reader(json, file);
  const std::string named = reader.Text("format");
  const uint64_t version = reader.Number("version");
  GEMEL_RETURN_IF_ERROR(reader.status());
  if (named != format) {
    return error::InvalidArgument("{}.format: '{}' is not '{}'", file, named, format);
  }
  if (version != kVersion) {
    return error::InvalidArgument("{}.version: {}, this reader knows {}: use a newer gemel", file,
                                  version, kVersion);
  }
  return json;
}

void ReadShards(Reader* reader, const std::string& where, SnapshotFacts* snapshot) {
  const Parsed& shards = reader->List("shards", kWorldSizeMax);
  for (const Parsed& json : shards) {
    Reader shard(json, fmt::format("{}.shards[{}]", where, snapshot->shards.size()));
    ShardFacts facts;
    facts.root = ToHex(shard.Digest("root"));
    facts.bytes = shard.Number("bytes");
    facts.layout_bytes = shard.Number("layout_bytes");
    if (facts.bytes > kShardBytesMax || facts.layout_bytes > facts.bytes) {
      shard.Fail("bytes", "is too large, or less than layout_bytes");
    }
    if (!shard.status().ok()) {
      reader->Fail("shards", MessageOf(shard.status()));
      return;
    }
    snapshot->shards.push_back(std::move(facts));
  }
  if (snapshot->shards.empty()) {
    reader->Fail("shards", "is empty");
  }
}

void ReadFiles(Reader* reader, const std::string& where, std::vector<FileFacts>* files) {
  std::set<std::string> names;
  for (const Parsed& json : reader->List("files", kRecordFilesMax)) {
    Reader file(json, fmt::format("{}.files[{}]", where, files->size()));
    FileFacts facts;
    facts.name = file.Text("name");
    facts.bytes = file.Number("bytes");
    facts.digest = file.Digest("xxh3_128");
    facts.prefix = file.Text("prefix");
    if (!CheckFileName(facts.name).ok() || facts.name.find('/') != std::string::npos ||
        facts.name == kRecordName || facts.name == kJournalName) {
      file.Fail("name", "is not a file's name");
    }
    if (!names.insert(facts.name).second) {
      file.Fail("name", "is there twice");
    }
    if (!file.status().ok()) {
      reader->Fail("files", MessageOf(file.status()));
      return;
    }
    files->push_back(std::move(facts));
  }
}

}  // namespace

std::string SnapshotFacts::ToString() const {
  return fmt::format("{}@{} (sequence {})", job, name, sequence);
}

std::string EncodeRecord(const ExportRecord& record, RecordKind kind) {
  const SnapshotFacts& snapshot = record.snapshot;
  GEMEL_CHECK(!snapshot.shards.empty()) << snapshot.ToString();
  Json json = {
      {"format", kind == RecordKind::kComplete ? kCompleteFormat : kPartialFormat},
      {"version", kVersion},
      {"cluster", snapshot.cluster},
      {"job", snapshot.job},
      {"name", snapshot.name},
      {"epoch", {{"generation", snapshot.epoch_generation}, {"counter", snapshot.epoch_counter}}},
      {"sequence", snapshot.sequence},
      {"world_size", snapshot.shards.size()}};
  json["shards"] = Json::array();
  for (const ShardFacts& shard : snapshot.shards) {
    json["shards"].push_back(
        {{"root", shard.root}, {"bytes", shard.bytes}, {"layout_bytes", shard.layout_bytes}});
  }
  json["files"] = Json::array();
  for (const FileFacts& file : record.files) {
    json["files"].push_back({{"name", file.name},
                             {"bytes", file.bytes},
                             {"xxh3_128", ToHex(file.digest)},
                             {"prefix", file.prefix}});
  }
  return json.dump(1) + "\n";
}

absl::StatusOr<ExportRecord> DecodeRecord(std::string_view text, RecordKind kind) {
  const bool complete = kind == RecordKind::kComplete;
  const char* file = complete ? kRecordName : kJournalName;
  GEMEL_ASSIGN_OR_RETURN(const Parsed json,
                         ParseAs(text, complete ? kCompleteFormat : kPartialFormat, file));
  ExportRecord record;
  Reader reader(json, file);
  record.snapshot.cluster = reader.Text("cluster");
  record.snapshot.job = reader.Text("job");
  record.snapshot.name = reader.Text("name");
  record.snapshot.sequence = reader.Number("sequence");
  const uint64_t world_size = reader.Number("world_size");
  ReadShards(&reader, file, &record.snapshot);
  if (world_size != record.snapshot.shards.size()) {
    reader.Fail("world_size", "is not the number of shards");
  }
  ReadFiles(&reader, file, &record.files);
  GEMEL_RETURN_IF_ERROR(reader.status());
  static const Parsed kNothing;
  const auto epoch = json.find("epoch");
  Reader numbers(epoch == json.end() ? kNothing : *epoch, fmt::format("{}.epoch", file));
  record.snapshot.epoch_generation = numbers.Number("generation");
  record.snapshot.epoch_counter = numbers.Number("counter");
  GEMEL_RETURN_IF_ERROR(numbers.status());
  return record;
}

std::string EncodeLatest(const Latest& latest) {
  GEMEL_CHECK(!latest.exports.empty()) << latest.job;
  Json json = {{"format", kLatestFormat}, {"version", kVersion}, {"job", latest.job}};
  json["latest"] = latest.exports.back().path;
  json["exports"] = Json::array();
  for (const ArchivedExport& entry : latest.exports) {
    json["exports"].push_back({{"path", entry.path},
                               {"cluster", entry.cluster},
                               {"name", entry.name},
                               {"sequence", entry.sequence},
                               {"bytes", entry.bytes},
                               {"record_xxh3_128", ToHex(entry.record_digest)}});
  }
  return json.dump(1) + "\n";
}

absl::StatusOr<Latest> DecodeLatest(std::string_view text) {
  GEMEL_ASSIGN_OR_RETURN(const Parsed json, ParseAs(text, kLatestFormat, kLatestName));
  Latest latest;
  Reader reader(json, kLatestName);
  latest.job = reader.Text("job");
  for (const Parsed& entry_json : reader.List("exports", kRecordFilesMax)) {
    Reader entry(entry_json, fmt::format("{}.exports[{}]", kLatestName, latest.exports.size()));
    ArchivedExport& archived = latest.exports.emplace_back();
    archived.path = entry.Text("path");
    archived.cluster = entry.Text("cluster");
    archived.name = entry.Text("name");
    archived.sequence = entry.Number("sequence");
    archived.bytes = entry.Number("bytes");
    archived.record_digest = entry.Digest("record_xxh3_128");
    if (!CheckFileName(archived.path).ok() || archived.path.find('/') != std::string::npos) {
      entry.Fail("path", "is not a folder's name");
    }
    GEMEL_RETURN_IF_ERROR(entry.status());
  }
  const std::string newest = reader.Text("latest");
  if (latest.exports.empty() || latest.exports.back().path != newest) {
    reader.Fail("latest", "is not the last of exports");
  }
  GEMEL_RETURN_IF_ERROR(reader.status());
  return latest;
}

}  // namespace gemel::archive
