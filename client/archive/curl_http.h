// SPDX-License-Identifier: Apache-2.0
//
// CurlHttp: HttpClient over libcurl's multi interface, signing with AWS Signature Version 4. The
// only file that knows curl and converts its errors.
//
// What libcurl 7.88 (Debian 12) signs wrongly, and how requests are made so that it need not
// matter: it takes the query as it stands (so ours is sorted, escaped and has '=' after every
// name), the path as it stands (so ours is escaped once, as S3 wants it), and cannot hash a body
// that it reads by callback (so the body's SHA-256 comes in x-amz-content-sha256, which it then
// signs). It also signs a header that is only there to take one away ("Expect:"): there is none.
//
// Ownership: the bodies are the caller's. Memory: one response, and curl's buffers.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

#include "client/archive/http_client.h"
#include "client/archive/pace.h"

namespace gemel::archive {

class CurlHttp final : public HttpClient {
 public:
  struct Options {
    std::string region;
    std::string access_key;  // empty: requests are not signed
    std::string secret_key;
    Duration connect_within = 10s;
    Duration stalled_after = 20s;  // without one byte in either direction
  };

  // Internal when libcurl cannot be started. `pace` outlives this.
  static absl::StatusOr<std::unique_ptr<CurlHttp>> Create(Options options, Pace* pace);
  ~CurlHttp() override;

  uint64_t Begin(HttpRequest request) override;
  std::optional<HttpDone> Next(TimePoint deadline) override;
  void Cancel(uint64_t number) override;

 private:
  struct Transfer;

  CurlHttp(Options options, Pace* pace, void* multi);
  void SetUp(Transfer* transfer);
  void SetUpBody(Transfer* transfer);
  std::optional<HttpDone> TakeDone();

  const Options options_;
  Pace* const pace_;
  void* const multi_;  // CURLM
  uint64_t last_number_ = 0;
  std::map<uint64_t, std::unique_ptr<Transfer>> transfers_;
};

}  // namespace gemel::archive
