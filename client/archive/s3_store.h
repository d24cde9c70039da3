// SPDX-License-Identifier: Apache-2.0
//
// S3Store: an ObjectStore in a bucket of S3, or of a server that speaks it.
//
// Up to kPartBytes a file is one PUT; beyond, a multipart upload of kPartBytes each (more when
// that would be over kPartsMax parts), at most kPartsInFlight at a time. Every body's SHA-256 is
// signed and its MD5 sent, so the server refuses what changed on the way; what it says that it has
// (ETag) is compared once more. An upload that is given up is aborted, so that nothing of it is
// stored or paid for; those of dead processes: RemoveUnfinished().
//
// Thread safety: one thread; one writer open at a time, and no other call while it is.
// Memory: (kPartsInFlight + 1) parts.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "client/archive/object_store.h"
#include "client/archive/s3_calls.h"

namespace gemel::archive {

constexpr uint64_t kPartBytes = 16 * kMiB;
constexpr uint64_t kPartBytesMax = 32 * kMiB;  // what memory is planned for
constexpr uint64_t kPartsMax = 10'000;         // of S3
constexpr size_t kPartsInFlight = 4;
static_assert((kPartsInFlight + 1) * kPartBytesMax <= 160 * kMiB);

class S3Store final : public ObjectStore {
 public:
  // `calls` outlives this and its writers.
  explicit S3Store(S3Calls* calls);

  // InvalidArgument when the file is larger than kPartsMax parts of kPartBytesMax.
  absl::StatusOr<std::unique_ptr<ObjectWriter>> Create(const std::string& key,
                                                       uint64_t bytes) override;
  absl::Status Read(const std::string& key, uint64_t offset, MutableByteSpan into) override;
  absl::StatusOr<uint64_t> Size(const std::string& key) override;
  absl::StatusOr<std::vector<ObjectInfo>> List(const std::string& prefix) override;
  absl::Status Remove(const std::string& key) override;
  absl::Status RemoveUnfinished(const std::string& prefix) override;
  std::string Where(const std::string& key) const override;

 private:
  // With the location's prefix.
  std::string FullKey(const std::string& key) const;

  S3Calls* const calls_;
};

// A PUT of `body`, a whole object or (with partNumber in `query`) a part. `body` must live until
// the answer is there.
S3Request PutRequest(const std::string& full_key, ByteSpan body,
                     std::map<std::string, std::string> query);

// DataLoss, naming both, unless the answer's ETag is the MD5 of `body`. Servers that encrypt with
// keys of their own give no MD5; there the digests that went along have to do.
absl::Status CheckETag(const HttpResponse& response, ByteSpan body, const std::string& where);

}  // namespace gemel::archive
