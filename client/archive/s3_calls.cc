// SPDX-License-Identifier: Apache-2.0
#include "client/archive/s3_calls.h"

#include <algorithm>

#include "client/archive/body_digest.h"
#include "client/archive/s3_xml.h"
#include "common/check.h"
#include "common/errors.h"

namespace gemel::archive {
namespace {

constexpr Duration kBackOffFirst = 100ms;
constexpr Duration kBackOffMax = 5s;
constexpr Duration kSliceMax = 1s;  // of a wait for answers and for what is due again
constexpr Duration kOnceWithin = 3s;
constexpr int kDoublingsMax = 10;

bool IsTransient(const HttpResponse& response) {
  const std::string code = XmlText(response.body, "Code");
  const bool never = response.status == 501 || response.status == 505;
  return response.status == 429 || response.status == 408 ||
         (response.status / 100 == 5 && !never) || code == "RequestTimeout" || code == "SlowDown";
}

absl::Status Refused(const std::string& code, const std::string& place, const std::string& said) {
  if (code == "RequestTimeTooSkewed") {
    return error::PermissionDenied("{}: {}; set this machine's clock", place, said);
  }
  if (code == "InvalidAccessKeyId" || code == "SignatureDoesNotMatch" || code == "InvalidToken" ||
      code == "ExpiredToken") {
    return error::PermissionDenied(
        "{}: {}; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN", place,
        said);
  }
  return error::PermissionDenied(
      "{}: {}; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and give that key the right to "
      "list, read, write and delete there",
      place, said);
}

}  // namespace

absl::Status ErrorOf(const HttpResponse& response, const S3Location& location,
                     const std::string& key) {
  const std::string place =
      fmt::format("s3://{}/{} at {}", location.bucket, key, location.endpoint);
  const std::string code = XmlText(response.body, "Code");
  const std::string message = XmlText(response.body, "Message");
  const std::string said = fmt::format("{}{}{}{}{}", response.status, code.empty() ? "" : " ", code,
                                       message.empty() ? "" : ": ", message);
  if (IsTransient(response)) {
    return response.status == 507 ? error::ResourceExhausted("{}: {}; make room there", place, said)
                                  : error::Unavailable("{}: {}", place, said);
  }
  switch (response.status) {
    case 301:
    case 302:
    case 307:
      return error::FailedPrecondition(
          "{}: {}; the bucket is in region '{}': add ?region=NAME to the address", place, said,
          response.headers.count("x-amz-bucket-region") > 0
              ? response.headers.at("x-amz-bucket-region")
              : "of another endpoint");
    case 401:
    case 403:
      return Refused(code, place, said);
    case 404:
      return code == "NoSuchBucket"
                 ? error::NotFound(
                       "{}: {}; make the bucket, or check its name, region and endpoint", place,
                       said)
                 : error::NotFound("{}: {}", place, said);
    case 412:
      return error::FailedPrecondition(
          "{}: {}; somebody else writes there: one archive a job and prefix", place, said);
    case 400:
      if (code == "BadDigest" || code == "XAmzContentSHA256Mismatch") {
        return error::DataLoss("{}: {}; bytes changed on the way", place, said);
      }
      [[fallthrough]];
    default:
      return error::InvalidArgument("{}: {}", place, said);
  }
}

S3Calls::S3Calls(Options options, HttpClient* http, Pace* pace)
    : options_(std::move(options)), http_(http), pace_(pace), random_(options_.seed) {
  GEMEL_CHECK(http_ != nullptr && pace_ != nullptr);
  GEMEL_CHECK(options_.patience >= Duration::zero());
}

Duration S3Calls::BackOff(int tries) {
  const Duration most =
      std::min<Duration>(kBackOffMax, kBackOffFirst * (1 << std::min(tries, kDoublingsMax)));
  return Duration(static_cast<Duration::rep>(random_.Below(static_cast<uint64_t>(most.count())) +
                                             static_cast<uint64_t>(kBackOffFirst.count()) / 2));
}

HttpRequest S3Calls::HttpOf(const S3Request& request) const {
  HttpRequest http;
  http.method = request.method;
  http.url = options_.location.Url(request.key, request.query);
  http.headers = request.headers;
  http.headers.emplace_back("x-amz-content-sha256", Sha256Hex(request.body));
  if (!options_.session_token.empty()) {
    http.headers.emplace_back("x-amz-security-token", options_.session_token);
  }
  http.body = request.body;
  http.into = request.into;
  return http;
}

void S3Calls::Send(Attempt* attempt) {
  attempt->tries += 1;
  attempt->http_number = http_->Begin(HttpOf(attempt->request));
}

void S3Calls::Once(const S3Request& request) {
  GEMEL_CHECK(attempts_.empty()) << "parts are on their way";
  HttpRequest http = HttpOf(request);
  http.also_when_ending = true;
  const uint64_t number = http_->Begin(std::move(http));
  http_->Next(Add(pace_->Now(), kOnceWithin));
  http_->Cancel(number);
}

std::optional<absl::StatusOr<HttpResponse>> S3Calls::Judge(Attempt* attempt,
                                                           absl::StatusOr<HttpResponse> response) {
  absl::Status status = response.status();
  if (status.ok() && response->status / 100 == 2) {
    return response;
  }
  if (status.ok()) {
    status = ErrorOf(*response, options_.location, attempt->request.key);
  }
  const TimePoint again = Add(pace_->Now(), BackOff(attempt->tries));
  if (!absl::IsUnavailable(status) || pace_->stopping()) {
    return status;
  }
  if (again >= attempt->give_up) {
    return error::Unavailable("{} ({} tries in {:.0f} s)", MessageOf(status), attempt->tries,
                              Milliseconds(options_.patience) / 1000);
  }
  attempt->http_number = 0;
  attempt->not_before = again;
  return std::nullopt;
}

uint64_t S3Calls::Begin(S3Request request) {
  const uint64_t number = ++last_number_;
  Attempt& attempt = attempts_[number];
  attempt.request = std::move(request);
  attempt.give_up = Add(pace_->Now(), options_.patience);
  Send(&attempt);
  return number;
}

std::pair<uint64_t, absl::StatusOr<HttpResponse>> S3Calls::Next() {
  GEMEL_CHECK(!attempts_.empty()) << "nothing was begun";
  while (true) {
    TimePoint wake = Add(pace_->Now(), kSliceMax);
    for (auto& [number, attempt] : attempts_) {
      if (attempt.http_number == 0 && (attempt.not_before <= pace_->Now() || pace_->stopping())) {
        Send(&attempt);
      } else if (attempt.http_number == 0) {
        wake = std::min(wake, attempt.not_before);
      }
    }
    std::optional<HttpDone> done = http_->Next(wake);
    if (!done.has_value()) {
      continue;
    }
    const auto ended = std::find_if(attempts_.begin(), attempts_.end(), [&](const auto& entry) {
      return entry.second.http_number == done->number;
    });
    GEMEL_CHECK(ended != attempts_.end()) << done->number;
    auto result = Judge(&ended->second, std::move(done->response));
    if (result.has_value()) {
      const uint64_t number = ended->first;
      attempts_.erase(ended);
      return {number, std::move(*result)};
    }
  }
}

void S3Calls::Cancel(uint64_t number) {
  const auto found = attempts_.find(number);
  if (found != attempts_.end()) {
    http_->Cancel(found->second.http_number);
    attempts_.erase(found);
  }
}

absl::StatusOr<HttpResponse> S3Calls::Call(S3Request request) {
  GEMEL_CHECK(attempts_.empty()) << "parts are on their way";
  Begin(std::move(request));
  return Next().second;
}

}  // namespace gemel::archive
