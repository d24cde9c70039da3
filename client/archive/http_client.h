// SPDX-License-Identifier: Apache-2.0
//
// HttpClient: HTTP requests, several at a time, without threads. CurlHttp is the production one.
//
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/bytes.h"
#include "common/time.h"

namespace gemel::archive {

struct HttpRequest {
  std::string method;  // GET, HEAD, PUT, POST, DELETE
  std::string url;     // escaped, its query by rising name and each with '='
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  ByteSpan body;                  // must live until the response is there
  bool also_when_ending = false;  // not cancelled when the program is asked to end
  MutableByteSpan
      into;  // where the body of a response with status 2xx goes; empty: into the response
};

struct HttpResponse {
  int status = 0;                              // 200, 404, …
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // at most kResponseBytesMax
  uint64_t into_bytes = 0;                     // written to HttpRequest.into
};

constexpr uint64_t kResponseBytesMax = 16 * kMiB;

struct HttpDone {
  uint64_t number = 0;
  // Not OK: no response came, or not all of it. Unavailable may be tried again: whether the server
  // did what was asked is unknown.
  absl::StatusOr<HttpResponse> response;
};

class HttpClient {
 public:
  virtual ~HttpClient() = default;
  // Begins a request; its number is in what Next() gives.
  virtual uint64_t Begin(HttpRequest request) = 0;
  // The next request that has ended, or nothing by `deadline`. All requests make progress only in
  // here. Cancelled, as the response of each, once the program is asked to end.
  virtual std::optional<HttpDone> Next(TimePoint deadline) = 0;
  // Forgets a request that was begun. OK when it has ended.
  virtual void Cancel(uint64_t number) = 0;
};

}  // namespace gemel::archive
