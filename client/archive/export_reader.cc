// SPDX-License-Identifier: Apache-2.0
#include "client/archive/export_reader.h"

#include <algorithm>
#include <vector>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "common/xxh3.h"

namespace gemel::archive {
namespace {

constexpr uint64_t kReadBytes = 8 * kMiB;

}  // namespace

absl::StatusOr<ExportRecord> ReadRecord(ObjectStore* store, const std::string& prefix) {
  absl::StatusOr<std::string> text = GetObject(store, prefix + kRecordName, kRecordBytesMax);
  if (absl::IsNotFound(text.status())) {
    const bool partial = store->Size(prefix + kJournalName).ok();
    return partial
               ? error::NotFound(
                     "{} holds an export that is not complete (no {}): run its "
                     "`gemel export` again, it goes on",
                     store->Where(prefix), kRecordName)
               : error::NotFound("{} holds no export (no {})", store->Where(prefix), kRecordName);
  }
  GEMEL_RETURN_IF_ERROR(text.status());
  absl::StatusOr<ExportRecord> record = DecodeRecord(*text, RecordKind::kComplete);
  return record.ok()
             ? record
             : absl::StatusOr<ExportRecord>(Annotate(record.status(), store->Where(prefix)));
}

absl::Status VerifyFile(ObjectStore* store, Pace* pace, const std::string& prefix,
                        const FileFacts& file, const std::function<void(uint64_t)>& progressed) {
  const std::string key = prefix + file.name;
  absl::StatusOr<uint64_t> bytes = store->Size(key);
  if (absl::IsNotFound(bytes.status())) {
    return error::DataLoss("{} is missing: {}", store->Where(key), MessageOf(bytes.status()));
  }
  GEMEL_RETURN_IF_ERROR(bytes.status());
  if (*bytes != file.bytes) {
    return error::DataLoss("{} has {} bytes, {} were written: take another copy of it",
                           store->Where(key), *bytes, file.bytes);
  }
  GEMEL_CHECK(store != nullptr && pace != nullptr);
  std::vector<std::byte> buffer(std::min(kReadBytes, file.bytes));
  Xxh3Stream hash;
  for (uint64_t at = 0; at < file.bytes;) {
    if (pace->stopping()) {
      return error::Cancelled("asked to end while verifying {}", store->Where(key));
    }
    const MutableByteSpan into =
        MutableByteSpan(buffer).first(std::min<uint64_t>(buffer.size(), file.bytes - at));
    GEMEL_RETURN_IF_ERROR(store->Read(key, at, into));
    hash.Update(into);
    at += into.size();
    progressed(into.size());
  }
  const Digest128 digest = hash.Finish();
  if (digest != file.digest) {
    return error::DataLoss("{} has the digest {}, {} was written: take another copy of it",
                           store->Where(key), ToHex(digest), ToHex(file.digest));
  }
  return absl::OkStatus();
}

absl::Status VerifyExport(ObjectStore* store, Pace* pace, const std::string& prefix,
                          const ExportRecord& record, const Watcher& watcher) {
  uint64_t total = 0;
  for (const FileFacts& file : record.files) {
    total += file.bytes;
  }
  uint64_t done = 0;
  for (const FileFacts& file : record.files) {
    GEMEL_RETURN_IF_ERROR(VerifyFile(store, pace, prefix, file, [&](uint64_t bytes) {
      done += bytes;
      watcher(done, total, "verifying " + file.name);
    }));
  }
  return absl::OkStatus();
}

absl::StatusOr<safetensors::Header> ReadHeader(ObjectStore* store, const std::string& key) {
  const auto named = [&](const absl::Status& status) {
    return Annotate(status, store->Where(key));
  };
  GEMEL_ASSIGN_OR_RETURN(const uint64_t bytes, store->Size(key));
  std::vector<std::byte> start(std::min(bytes, safetensors::kLengthBytes));
  GEMEL_RETURN_IF_ERROR(store->Read(key, 0, start));
  absl::StatusOr<uint64_t> length = safetensors::DecodeLength(start, bytes);
  if (!length.ok()) {
    return named(length.status());
  }
  std::string json(*length, '\0');
  GEMEL_RETURN_IF_ERROR(
      store->Read(key, safetensors::kLengthBytes, std::as_writable_bytes(std::span(json))));
  absl::StatusOr<safetensors::Header> header = safetensors::DecodeHeader(json, bytes);
  if (!header.ok()) {
    return named(header.status());
  }
  return header;
}

}  // namespace gemel::archive
