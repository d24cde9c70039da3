// SPDX-License-Identifier: Apache-2.0
//
// Writers of S3Store: one PUT, or a multipart upload.
//
// Thread safety: one thread. Ownership: S3Calls outlives them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "client/archive/object_store.h"
#include "client/archive/s3_calls.h"

namespace gemel::archive {

// A file of at most one part, sent by Finish().
class S3Put final : public ObjectWriter {
 public:
  S3Put(S3Calls* calls, std::string full_key, uint64_t bytes);

  absl::Status Write(ByteSpan data) override;
  absl::Status Finish() override;

 private:
  S3Calls* const calls_;
  const std::string full_key_;
  const uint64_t bytes_;
  std::vector<std::byte> body_;
};

// Invariants:
//   (1) at most kPartsInFlight parts are on their way, each with its bytes kept until its answer;
//   (2) once begun, the upload is completed or aborted, also by the destructor.
class S3Multipart final : public ObjectWriter {
 public:
  S3Multipart(S3Calls* calls, std::string full_key, uint64_t bytes, uint64_t part_bytes);
  ~S3Multipart() override;

  absl::Status Begin();
  absl::Status Write(ByteSpan data) override;
  absl::Status Finish() override;

 private:
  struct Part {
    size_t index = 0;
    std::vector<std::byte> body;
  };

  absl::Status SendPart();
  absl::Status AwaitPart();
  absl::Status Complete();
  void Abort();

  S3Calls* const calls_;
  const std::string full_key_;
  const uint64_t bytes_;
  const uint64_t part_bytes_;
  std::string upload_id_;  // empty: not begun, or ended
  uint64_t written_ = 0;
  std::vector<std::byte> filling_;
  std::vector<std::vector<std::byte>> spare_;  // buffers that have been used before
  std::map<uint64_t, Part> in_flight_;         // by number of the call
  std::vector<std::string> etags_;             // by part
};

}  // namespace gemel::archive
