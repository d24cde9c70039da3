// SPDX-License-Identifier: Apache-2.0
//
// The files that say what an export or an archive is (docs/formats/export.md):
//
//   gemel.json          last file of a complete export: what it is of and every file's digest
//   gemel.partial.json  while it is not complete: what it will be, and the files that are whole
//   latest.json         of an archived job: its newest complete exports, the newest last
//
// Decoding is total: any bytes give a value or InvalidArgument that names the field.
//
// Thread safety: values; functions are pure.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

#include "common/digest.h"

namespace gemel::archive {

inline constexpr const char* kRecordName = "gemel.json";
inline constexpr const char* kJournalName = "gemel.partial.json";
inline constexpr const char* kLatestName = "latest.json";
constexpr uint64_t kRecordBytesMax = 256 * uint64_t{1024} * 1024;
constexpr size_t kRecordFilesMax = 1U << 20;

struct ShardFacts {
  std::string root;  // 32 hexadecimal digits, of the cluster's shard
  uint64_t bytes = 0;
  uint64_t layout_bytes = 0;

  friend bool operator==(const ShardFacts&, const ShardFacts&) = default;
};

// Which snapshot it is of: equal for two readings of one snapshot, different for any two snapshots.
struct SnapshotFacts {
  std::string cluster;  // 32 hexadecimal digits
  std::string job;
  std::string name;
  uint64_t epoch_generation = 0;
  uint64_t epoch_counter = 0;
  uint64_t sequence = 0;
  std::vector<ShardFacts> shards;  // by rank; as many as the world had ranks

  friend bool operator==(const SnapshotFacts&, const SnapshotFacts&) = default;

  // "gpt@7 (sequence 12)", for messages.
  std::string ToString() const;
};

struct FileFacts {
  std::string name;
  uint64_t bytes = 0;
  Digest128 digest;    // XXH3-128 of the bytes
  std::string prefix;  // what the names of its tensors lost: "model/"

  friend bool operator==(const FileFacts&, const FileFacts&) = default;
};

// gemel.json and, of what is whole so far, gemel.partial.json.
struct ExportRecord {
  SnapshotFacts snapshot;
  std::vector<FileFacts> files;

  friend bool operator==(const ExportRecord&, const ExportRecord&) = default;
};

enum class RecordKind { kComplete, kPartial };

std::string EncodeRecord(const ExportRecord& record, RecordKind kind);
absl::StatusOr<ExportRecord> DecodeRecord(std::string_view text, RecordKind kind);

struct ArchivedExport {
  std::string path;  // below the job: "00000000000000000012-7"
  std::string cluster;
  std::string name;
  uint64_t sequence = 0;
  uint64_t bytes = 0;       // of all its files
  Digest128 record_digest;  // XXH3-128 of its gemel.json

  friend bool operator==(const ArchivedExport&, const ArchivedExport&) = default;
};

struct Latest {
  std::string job;
  std::vector<ArchivedExport> exports;  // the newest last; not empty

  friend bool operator==(const Latest&, const Latest&) = default;
};

std::string EncodeLatest(const Latest& latest);
absl::StatusOr<Latest> DecodeLatest(std::string_view text);

}  // namespace gemel::archive
