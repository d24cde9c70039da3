// SPDX-License-Identifier: Apache-2.0
#include "client/archive/s3_store.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "client/archive/body_digest.h"
#include "client/archive/s3_upload.h"
#include "client/archive/s3_xml.h"
#include "common/check.h"
#include "common/disk.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::archive {
namespace {

constexpr size_t kListPagesMax = 10'000;
constexpr size_t kMd5HexDigits = 32;

std::optional<uint64_t> NumberOf(std::string_view text) {
  uint64_t number = 0;
  const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), number);
  return bad == std::errc() && end == text.data() + text.size() && !text.empty()
             ? std::optional(number)
             : std::nullopt;
}

}  // namespace

S3Request PutRequest(const std::string& full_key, ByteSpan body,
                     std::map<std::string, std::string> query) {
  S3Request request;
  request.method = "PUT";
  request.key = full_key;
  request.query = std::move(query);
  request.headers = {{"content-md5", Base64Of(Md5(body))}};
  request.body = body;
  return request;
}

absl::Status CheckETag(const HttpResponse& response, ByteSpan body, const std::string& where) {
  const auto etag = response.headers.find("etag");
  const auto encryption = response.headers.find("x-amz-server-side-encryption");
  const bool own_keys =
      response.headers.count("x-amz-server-side-encryption-customer-algorithm") > 0 ||
      (encryption != response.headers.end() && encryption->second != "AES256");
  if (etag == response.headers.end() || own_keys) {
    return absl::OkStatus();
  }
  std::string said = etag->second;
  said.erase(std::remove(said.begin(), said.end(), '"'), said.end());
  const std::string sent = HexOf(Md5(body));
  if (said.size() == kMd5HexDigits && said != sent) {
    return error::DataLoss("{}: {} bytes with MD5 {} were sent, the server has {}", where,
                           body.size(), sent, said);
  }
  return absl::OkStatus();
}

S3Store::S3Store(S3Calls* calls) : calls_(calls) { GEMEL_CHECK(calls != nullptr); }

std::string S3Store::FullKey(const std::string& key) const {
  const std::string& prefix = calls_->location().prefix;
  return prefix.empty() ? key : key.empty() ? prefix + "/" : prefix + "/" + key;
}

std::string S3Store::Where(const std::string& key) const {
  return "s3://" + calls_->location().bucket + "/" + FullKey(key);
}

absl::StatusOr<std::unique_ptr<ObjectWriter>> S3Store::Create(const std::string& key,
                                                              uint64_t bytes) {
  GEMEL_RETURN_IF_ERROR(CheckFileName(key));
  if (bytes <= kPartBytes) {
    return std::make_unique<S3Put>(calls_, FullKey(key), bytes);
  }
  const uint64_t part_bytes = std::max(kPartBytes, DivideUp(bytes, kPartsMax));
  if (part_bytes > kPartBytesMax) {
    return error::InvalidArgument(
        "{} would have {} bytes, S3 takes {} parts of {} here: export to a directory", Where(key),
        bytes, kPartsMax, kPartBytesMax);
  }
  auto upload = std::make_unique<S3Multipart>(calls_, FullKey(key), bytes, part_bytes);
  GEMEL_RETURN_IF_ERROR(upload->Begin());
  return upload;
}

absl::Status S3Store::Read(const std::string& key, uint64_t offset, MutableByteSpan into) {
  GEMEL_RETURN_IF_ERROR(CheckFileName(key));
  if (into.empty()) {
    return absl::OkStatus();
  }
  S3Request request;
  request.method = "GET";
  request.key = FullKey(key);
  request.headers = {{"range", fmt::format("bytes={}-{}", offset, offset + into.size() - 1)}};
  request.into = into;
  GEMEL_ASSIGN_OR_RETURN(const HttpResponse response, calls_->Call(std::move(request)));
  if (response.into_bytes != into.size()) {
    return error::DataLoss("{}: {} bytes from {} were wanted, {} came: it was cut short",
                           Where(key), into.size(), offset, response.into_bytes);
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> S3Store::Size(const std::string& key) {
  GEMEL_RETURN_IF_ERROR(CheckFileName(key));
  S3Request request;
  request.method = "HEAD";
  request.key = FullKey(key);
  GEMEL_ASSIGN_OR_RETURN(const HttpResponse response, calls_->Call(std::move(request)));
  const auto length = response.headers.find("content-length");
  const std::optional<uint64_t> bytes =
      length == response.headers.end() ? std::nullopt : NumberOf(length->second);
  if (!bytes.has_value()) {
    return error::Unavailable("{}: the server does not say its size", Where(key));
  }
  return *bytes;
}

absl::StatusOr<std::vector<ObjectInfo>> S3Store::List(const std::string& prefix) {
  std::vector<ObjectInfo> found;
  const std::string& own = calls_->location().prefix;
  std::map<std::string, std::string> query = {{"list-type", "2"}, {"prefix", FullKey(prefix)}};
  for (size_t page = 0; page < kListPagesMax; ++page) {
    S3Request request;
    request.method = "GET";
    request.query = query;
    GEMEL_ASSIGN_OR_RETURN(const HttpResponse response, calls_->Call(std::move(request)));
    for (const std::string_view content : XmlElements(response.body, "Contents")) {
      const std::string key = XmlText(content, "Key");
      const std::optional<uint64_t> bytes = NumberOf(XmlText(content, "Size"));
      if (key.starts_with(FullKey(prefix)) && bytes.has_value()) {
        found.push_back({own.empty() ? key : key.substr(own.size() + 1), *bytes});
      }
    }
    const std::string next = XmlText(response.body, "NextContinuationToken");
    if (XmlText(response.body, "IsTruncated") != "true" || next.empty()) {
      std::sort(found.begin(), found.end(),
                [](const ObjectInfo& a, const ObjectInfo& b) { return a.key < b.key; });
      return found;
    }
    query["continuation-token"] = next;
  }
  return error::ResourceExhausted("{} has more than {} pages of keys: name a narrower prefix",
                                  Where(prefix), kListPagesMax);
}

absl::Status S3Store::Remove(const std::string& key) {
  GEMEL_RETURN_IF_ERROR(CheckFileName(key));
  S3Request request;
  request.method = "DELETE";
  request.key = FullKey(key);
  const absl::Status status = calls_->Call(std::move(request)).status();
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

absl::Status S3Store::RemoveUnfinished(const std::string& prefix) {
  S3Request request;
  request.method = "GET";
  request.query = {{"prefix", FullKey(prefix)}, {"uploads", ""}};
  GEMEL_ASSIGN_OR_RETURN(const HttpResponse response, calls_->Call(std::move(request)));
  for (const std::string_view upload : XmlElements(response.body, "Upload")) {
    S3Request abort;
    abort.method = "DELETE";
    abort.key = XmlText(upload, "Key");
    abort.query = {{"uploadId", XmlText(upload, "UploadId")}};
    if (abort.key.starts_with(FullKey(prefix))) {
      const absl::Status status = calls_->Call(std::move(abort)).status();
      if (!status.ok() && !absl::IsNotFound(status)) {
        return status;
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace gemel::archive
