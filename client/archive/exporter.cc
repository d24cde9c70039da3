// SPDX-License-Identifier: Apache-2.0
#include "client/archive/exporter.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "client/archive/export_reader.h"
#include "client/archive/s3_store.h"
#include "client/archive/tensor_window.h"
#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "common/xxh3.h"

namespace gemel::archive {
namespace {

static_assert(kWindowBytes % 16 == 0, "whole elements of every dtype");
static_assert(kExportHeaderBytes <= safetensors::kHeaderBytesMax);
static_assert(2 * kWindowBytes + (kPartsInFlight + 1) * kPartBytesMax <= 256 * kMiB,
              "what an export may take");

// One export that is going on.
class Exporting {
 public:
  Exporting(SnapshotSource* source, ObjectStore* store, Pace* pace, const ExportOptions& options,
            const Watcher& watcher)
      : source_(source), store_(store), pace_(pace), options_(options), watcher_(watcher) {}

  absl::StatusOr<ExportResult> Run();

 private:
  std::string Key(const std::string& name) const { return options_.prefix + name; }

  absl::StatusOr<bool> LookAtTarget();
  absl::Status LookAtRecord(const ExportRecord& record);
  absl::Status LookAtJournal(const std::string& text);
  absl::Status RefuseOthers();
  absl::Status WriteJournal();
  absl::Status PutRecord();
  absl::Status DoFile(const PlannedFile& file);
  bool IsKept(const PlannedFile& file, const FileFacts** kept);
  absl::StatusOr<Digest128> WriteFile(const PlannedFile& file);
  absl::Status WriteTensors(const PlannedFile& file, ObjectWriter* writer, Xxh3Stream* hash);
  void Progress(uint64_t bytes, const std::string& what);

  SnapshotSource* const source_;
  ObjectStore* const store_;
  Pace* const pace_;
  const ExportOptions& options_;
  const Watcher& watcher_;
  ExportPlan plan_;
  std::vector<FileFacts> whole_;  // of an earlier run, by its journal
  ExportResult result_;
  uint64_t done_ = 0;
  WindowReader windows_;
};

void Exporting::Progress(uint64_t bytes, const std::string& what) {
  done_ += bytes;
  watcher_(done_, result_.bytes, what);
}

absl::Status Exporting::LookAtRecord(const ExportRecord& record) {
  if (record.snapshot == source_->facts()) {
    result_.record = record;
    result_.was_complete = true;
    return absl::OkStatus();
  }
  if (!options_.force) {
    return error::FailedPrecondition(
        "{} holds the export of {}; this is {}: name another place, or say --force to replace it",
        store_->Where(options_.prefix), record.snapshot.ToString(), source_->facts().ToString());
  }
  // First what makes it complete; then it may be taken apart.
  GEMEL_RETURN_IF_ERROR(store_->Remove(Key(kRecordName)));
  for (const FileFacts& file : record.files) {
    GEMEL_RETURN_IF_ERROR(store_->Remove(Key(file.name)));
  }
  return absl::OkStatus();
}

absl::Status Exporting::LookAtJournal(const std::string& text) {
  absl::StatusOr<ExportRecord> journal = DecodeRecord(text, RecordKind::kPartial);
  if (journal.ok() && journal->snapshot == source_->facts()) {
    whole_ = std::move(journal->files);
    return absl::OkStatus();
  }
  if (options_.force) {
    return store_->Remove(Key(kJournalName));
  }
  const std::string of =
      journal.ok() ? journal->snapshot.ToString() : std::string(MessageOf(journal.status()));
  return error::FailedPrecondition(
      "{} holds the beginning of another export ({}); this is {}: name another place, or say "
      "--force to replace it",
      store_->Where(options_.prefix), of, source_->facts().ToString());
}

absl::Status Exporting::RefuseOthers() {
  GEMEL_ASSIGN_OR_RETURN(const std::vector<ObjectInfo> found, store_->List(options_.prefix));
  if (found.empty() || options_.force) {
    return absl::OkStatus();
  }
  return error::FailedPrecondition(
      "{} is not empty ({}{}) and holds no export of Gemel's: name another place, or say --force "
      "to "
      "write beside what is there",
      store_->Where(options_.prefix), found[0].key,
      found.size() > 1 ? fmt::format(" and {} more", found.size() - 1) : "");
}

// True when nothing is left to do.
absl::StatusOr<bool> Exporting::LookAtTarget() {
  absl::StatusOr<ExportRecord> record = ReadRecord(store_, options_.prefix);
  if (record.ok()) {
    GEMEL_RETURN_IF_ERROR(LookAtRecord(*record));
  } else if (absl::IsInvalidArgument(record.status()) && options_.force) {
    GEMEL_RETURN_IF_ERROR(store_->Remove(Key(kRecordName)));
  } else if (!absl::IsNotFound(record.status())) {
    return record.status();
  }
  if (result_.was_complete) {
    return true;
  }
  absl::StatusOr<std::string> journal = GetObject(store_, Key(kJournalName), kRecordBytesMax);
  if (journal.ok()) {
    GEMEL_RETURN_IF_ERROR(LookAtJournal(*journal));
  } else if (!absl::IsNotFound(journal.status())) {
    return journal.status();
  } else if (!record.ok()) {
    GEMEL_RETURN_IF_ERROR(RefuseOthers());
  }
  GEMEL_RETURN_IF_ERROR(store_->RemoveUnfinished(options_.prefix));
  return false;
}

absl::Status Exporting::WriteJournal() {
  return PutObject(store_, Key(kJournalName), EncodeRecord(result_.record, RecordKind::kPartial));
}

// `kept` is what the journal says of a file that can be this one.
bool Exporting::IsKept(const PlannedFile& file, const FileFacts** kept) {
  for (const FileFacts& facts : whole_) {
    if (facts.name == file.name && facts.bytes == file.bytes() && facts.prefix == file.prefix) {
      *kept = &facts;
      const auto progressed = [&](uint64_t bytes) { Progress(bytes, "verifying " + file.name); };
      const uint64_t before = done_;
      if (VerifyFile(store_, pace_, options_.prefix, facts, progressed).ok()) {
        return true;
      }
      done_ = before;
    }
  }
  return false;
}

absl::Status Exporting::WriteTensors(const PlannedFile& file, ObjectWriter* writer,
                                     Xxh3Stream* hash) {
  GEMEL_CHECK_EQ(file.sources.size(), file.header.tensors.size()) << file.name;
  for (size_t i = 0; i < file.sources.size(); ++i) {
    const TensorSource& tensor = file.sources[i];
    const uint64_t bytes = file.header.tensors[i].bytes();
    const uint64_t item = ItemBytes(tensor.dtype);
    const uint64_t step = kWindowBytes / item * item;
    for (uint64_t at = 0; at < bytes;) {
      if (pace_->stopping()) {
        return error::Cancelled("asked to end while writing {}", store_->Where(Key(file.name)));
      }
      const uint64_t end = std::min(bytes, at + step);
      GEMEL_ASSIGN_OR_RETURN(const ByteSpan window,
                             windows_.Read(source_, tensor, at / item, end / item));
      hash->Update(window);
      GEMEL_RETURN_IF_ERROR(writer->Write(window));
      Progress(window.size(), "writing " + file.name);
      at = end;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Digest128> Exporting::WriteFile(const PlannedFile& file) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<ObjectWriter> writer,
                         store_->Create(Key(file.name), file.bytes()));
  const std::string head = file.text.empty() ? safetensors::EncodeHeader(file.header) : file.text;
  Xxh3Stream hash;
  hash.Update(AsBytes(head));
  GEMEL_RETURN_IF_ERROR(writer->Write(AsBytes(head)));
  Progress(head.size(), "writing " + file.name);
  GEMEL_RETURN_IF_ERROR(WriteTensors(file, writer.get(), &hash));
  GEMEL_RETURN_IF_ERROR(writer->Finish());
  return hash.Finish();
}

absl::Status Exporting::DoFile(const PlannedFile& file) {
  const FileFacts* kept = nullptr;
  if (IsKept(file, &kept)) {
    result_.kept_bytes += file.bytes();
    result_.record.files.push_back(*kept);
    return absl::OkStatus();
  }
  GEMEL_ASSIGN_OR_RETURN(const Digest128 digest, WriteFile(file));
  result_.record.files.push_back({file.name, file.bytes(), digest, file.prefix});
  return WriteJournal();
}

absl::Status Exporting::PutRecord() {
  // What the target says that it has, before anything says that this is an export.
  for (const FileFacts& file : result_.record.files) {
    GEMEL_ASSIGN_OR_RETURN(const uint64_t bytes, store_->Size(Key(file.name)));
    if (bytes != file.bytes) {
      return error::DataLoss("{} has {} bytes, {} were written", store_->Where(Key(file.name)),
                             bytes, file.bytes);
    }
  }
  GEMEL_RETURN_IF_ERROR(
      PutObject(store_, Key(kRecordName), EncodeRecord(result_.record, RecordKind::kComplete)));
  return store_->Remove(Key(kJournalName));
}

absl::StatusOr<ExportResult> Exporting::Run() {
  GEMEL_ASSIGN_OR_RETURN(const bool complete, LookAtTarget());
  if (complete) {
    // A run that ended between the record and the journal's end left the journal.
    GEMEL_RETURN_IF_ERROR(store_->Remove(Key(kJournalName)));
    for (const FileFacts& file : result_.record.files) {
      result_.bytes += file.bytes;
    }
    return result_;
  }
  GEMEL_ASSIGN_OR_RETURN(plan_, PlanExport(source_, options_.file_bytes));
  result_.bytes = plan_.bytes();
  result_.warnings = plan_.warnings;
  result_.record.snapshot = source_->facts();
  if (whole_.empty()) {
    GEMEL_RETURN_IF_ERROR(WriteJournal());
  }
  for (const PlannedFile& file : plan_.files) {
    GEMEL_RETURN_IF_ERROR(DoFile(file));
  }
  GEMEL_CHECK_EQ(result_.record.files.size(), plan_.files.size());
  GEMEL_RETURN_IF_ERROR(PutRecord());
  return result_;
}

}  // namespace

absl::StatusOr<ExportResult> Export(SnapshotSource* source, ObjectStore* store, Pace* pace,
                                    const ExportOptions& options, const Watcher& watcher) {
  GEMEL_CHECK(source != nullptr && store != nullptr && pace != nullptr);
  GEMEL_CHECK(options.prefix.empty() || options.prefix.ends_with('/')) << options.prefix;
  Exporting exporting(source, store, pace, options, watcher);
  return exporting.Run();
}

bool IsExportFile(const std::string& name) {
  return name == kRecordName || name == kJournalName || name.ends_with(".safetensors") ||
         name.ends_with(".safetensors.index.json");
}

}  // namespace gemel::archive
