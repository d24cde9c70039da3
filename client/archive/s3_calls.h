// SPDX-License-Identifier: Apache-2.0
//
// S3Calls: one request to a bucket with all its tries. What S3Store and its uploads share.
//
// A request that got no answer, 429, 5xx or RequestTimeout is tried again: after 100 ms, doubling
// to 5 s, each a random part of it, until the store's patience since its first try is used up. All
// requests here may be repeated: keys hold whole immutable content.
//
// Thread safety: one thread.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

#include "client/archive/http_client.h"
#include "client/archive/pace.h"
#include "client/archive/s3_location.h"
#include "common/random.h"

namespace gemel::archive {

// What to ask, not yet how often.
struct S3Request {
  std::string method;
  std::string key;
  std::map<std::string, std::string> query;
  std::vector<std::pair<std::string, std::string>> headers;
  ByteSpan body;         // must live until the answer is there
  MutableByteSpan into;  // as HttpRequest.into
};

class S3Calls {
 public:
  struct Options {
    S3Location location;
    std::string session_token;
    Duration patience = 60s;
    uint64_t seed = 1;  // of the back-off
  };

  // Both outlive this.
  S3Calls(Options options, HttpClient* http, Pace* pace);

  // Until there is an answer of status 2xx, or the error that it means.
  absl::StatusOr<HttpResponse> Call(S3Request request);

  // One try, also when the program was asked to end; whatever comes of it.
  void Once(const S3Request& request);

  // The same for several at a time: begins one; its number is in what Next() gives.
  uint64_t Begin(S3Request request);
  // REQUIRES: something was begun and not yet given. Its number and how it went, tries included.
  std::pair<uint64_t, absl::StatusOr<HttpResponse>> Next();
  // Forgets what was begun and not yet given.
  void Cancel(uint64_t number);

  const S3Location& location() const { return options_.location; }

 private:
  struct Attempt {
    S3Request request;
    uint64_t http_number = 0;  // 0: waits for `not_before`
    int tries = 0;
    TimePoint not_before;
    TimePoint give_up;
  };

  HttpRequest HttpOf(const S3Request& request) const;
  void Send(Attempt* attempt);
  // Nothing: it is tried again.
  std::optional<absl::StatusOr<HttpResponse>> Judge(Attempt* attempt,
                                                    absl::StatusOr<HttpResponse> response);
  Duration BackOff(int tries);

  const Options options_;
  HttpClient* const http_;
  Pace* const pace_;
  Random random_;
  uint64_t last_number_ = 0;
  std::map<uint64_t, Attempt> attempts_;  // that were begun and not yet given
};

// What an answer of another status than 2xx means, with bucket, key and the way out. Unavailable is
// what may be tried again.
absl::Status ErrorOf(const HttpResponse& response, const S3Location& location,
                     const std::string& key);

}  // namespace gemel::archive
