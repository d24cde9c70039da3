// SPDX-License-Identifier: Apache-2.0
#include "client/archive/s3_upload.h"

#include <algorithm>

#include "client/archive/s3_store.h"
#include "client/archive/s3_xml.h"
#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::archive {
namespace {

std::string WhereOf(const S3Calls& calls, const std::string& full_key) {
  return "s3://" + calls.location().bucket + "/" + full_key;
}

}  // namespace

S3Put::S3Put(S3Calls* calls, std::string full_key, uint64_t bytes)
    : calls_(calls), full_key_(std::move(full_key)), bytes_(bytes) {
  GEMEL_CHECK_LE(bytes_, kPartBytes);
  body_.reserve(bytes_);
}

absl::Status S3Put::Write(ByteSpan data) {
  GEMEL_CHECK_LE(data.size(), bytes_ - body_.size()) << full_key_;
  body_.insert(body_.end(), data.begin(), data.end());
  return absl::OkStatus();
}

absl::Status S3Put::Finish() {
  GEMEL_CHECK_EQ(body_.size(), bytes_) << full_key_;
  GEMEL_ASSIGN_OR_RETURN(const HttpResponse response,
                         calls_->Call(PutRequest(full_key_, body_, {})));
  return CheckETag(response, body_, WhereOf(*calls_, full_key_));
}

S3Multipart::S3Multipart(S3Calls* calls, std::string full_key, uint64_t bytes, uint64_t part_bytes)
    : calls_(calls), full_key_(std::move(full_key)), bytes_(bytes), part_bytes_(part_bytes) {
  GEMEL_CHECK_LE(part_bytes_, kPartBytesMax);
  GEMEL_CHECK_LE(DivideUp(bytes_, part_bytes_), kPartsMax) << full_key_;
  etags_.resize(DivideUp(bytes_, part_bytes_));
}

S3Multipart::~S3Multipart() { Abort(); }

absl::Status S3Multipart::Begin() {
  S3Request request;
  request.method = "POST";
  request.key = full_key_;
  request.query = {{"uploads", ""}};
  GEMEL_ASSIGN_OR_RETURN(const HttpResponse response, calls_->Call(std::move(request)));
  upload_id_ = XmlText(response.body, "UploadId");
  return upload_id_.empty() ? error::Unavailable(
                                  "{}: the answer to a new upload has no UploadId: is it an S3 "
                                  "server?",
                                  WhereOf(*calls_, full_key_))
                            : absl::OkStatus();
}

absl::Status S3Multipart::Write(ByteSpan data) {
  GEMEL_CHECK(!upload_id_.empty()) << full_key_;
  GEMEL_CHECK_LE(data.size(), bytes_ - written_) << full_key_;
  while (!data.empty()) {
    const size_t take = std::min<size_t>(data.size(), part_bytes_ - filling_.size());
    filling_.insert(filling_.end(), data.begin(), data.begin() + static_cast<ptrdiff_t>(take));
    written_ += take;
    data = data.subspan(take);
    if (filling_.size() == part_bytes_) {
      GEMEL_RETURN_IF_ERROR(SendPart());
    }
  }
  return absl::OkStatus();
}

absl::Status S3Multipart::SendPart() {
  while (in_flight_.size() >= kPartsInFlight) {
    GEMEL_RETURN_IF_ERROR(AwaitPart());
  }
  Part part;
  part.index = (written_ - 1) / part_bytes_;
  part.body.swap(filling_);
  if (!spare_.empty()) {
    filling_.swap(spare_.back());
    spare_.pop_back();
  }
  filling_.reserve(part_bytes_);
  const ByteSpan body = part.body;  // moving a vector leaves its bytes where they are
  const uint64_t number = calls_->Begin(PutRequest(
      full_key_, body, {{"partNumber", fmt::to_string(part.index + 1)}, {"uploadId", upload_id_}}));
  in_flight_.emplace(number, std::move(part));
  return absl::OkStatus();
}

absl::Status S3Multipart::AwaitPart() {
  auto [number, response] = calls_->Next();
  const auto found = in_flight_.find(number);
  GEMEL_CHECK(found != in_flight_.end()) << full_key_;
  Part part = std::move(found->second);
  in_flight_.erase(found);
  GEMEL_RETURN_IF_ERROR(response.status());
  GEMEL_RETURN_IF_ERROR(CheckETag(*response, part.body, WhereOf(*calls_, full_key_)));
  const auto etag = response->headers.find("etag");
  if (etag == response->headers.end()) {
    return error::Unavailable("{}: part {} was taken without an ETag: is it an S3 server?",
                              WhereOf(*calls_, full_key_), part.index + 1);
  }
  etags_[part.index] = etag->second;
  part.body.clear();
  spare_.push_back(std::move(part.body));
  return absl::OkStatus();
}

absl::Status S3Multipart::Finish() {
  GEMEL_CHECK_EQ(written_, bytes_) << full_key_;
  if (!filling_.empty()) {
    GEMEL_RETURN_IF_ERROR(SendPart());
  }
  while (!in_flight_.empty()) {
    GEMEL_RETURN_IF_ERROR(AwaitPart());
  }
  GEMEL_RETURN_IF_ERROR(Complete());
  upload_id_.clear();
  return absl::OkStatus();
}

absl::Status S3Multipart::Complete() {
  GEMEL_CHECK(in_flight_.empty() && std::find(etags_.begin(), etags_.end(), "") == etags_.end());
  const std::string body = CompleteUploadXml(etags_);
  S3Request request;
  request.method = "POST";
  request.key = full_key_;
  request.query = {{"uploadId", upload_id_}};
  request.body = AsBytes(body);
  absl::StatusOr<HttpResponse> response = calls_->Call(request);
  // Its first try may have done it, and only the answer was lost: the size says so.
  if (absl::IsNotFound(response.status())) {
    S3Request head;
    head.method = "HEAD";
    head.key = full_key_;
    GEMEL_ASSIGN_OR_RETURN(const HttpResponse found, calls_->Call(std::move(head)));
    const auto size = found.headers.find("content-length");
    return size != found.headers.end() && size->second == fmt::to_string(bytes_)
               ? absl::OkStatus()
               : response.status();
  }
  GEMEL_RETURN_IF_ERROR(response.status());
  // S3 says 200 at once and learns later that it cannot: then the body is an error.
  const std::string code = XmlText(response->body, "Code");
  return XmlElements(response->body, "Error").empty()
             ? absl::OkStatus()
             : error::Unavailable("{}: the upload was not completed: {} {}",
                                  WhereOf(*calls_, full_key_), code,
                                  XmlText(response->body, "Message"));
}

void S3Multipart::Abort() {
  for (const auto& [number, part] : in_flight_) {
    calls_->Cancel(number);
  }
  in_flight_.clear();
  if (upload_id_.empty()) {
    return;
  }
  S3Request request;
  request.method = "DELETE";
  request.key = full_key_;
  request.query = {{"uploadId", std::exchange(upload_id_, "")}};
  // Best effort, like the work that is given up here: RemoveUnfinished() finds it again.
  calls_->Once(request);
}

}  // namespace gemel::archive
