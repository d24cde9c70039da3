// SPDX-License-Identifier: Apache-2.0
//
// Target: the ObjectStore that an address names, with all that it stands on.
//
//   /backup/gpt                                     a directory
//   s3://BUCKET/PREFIX?endpoint=URL&region=NAME     a bucket (s3_location.h)
//
// Thread safety: one thread. Ownership: owns the store.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "client/archive/curl_http.h"
#include "client/archive/object_store.h"
#include "client/archive/s3_calls.h"

namespace gemel::archive {

class Target {
 public:
  struct Options {
    S3Defaults s3;
    std::string access_key;  // empty: a bucket that anybody may use
    std::string secret_key;
    std::string session_token;
    Duration patience = 60s;  // with a server that does not answer
    uint64_t seed = 1;        // of back-off
  };

  // InvalidArgument for an address that is none. Nothing is connected yet. `pace` outlives this.
  static absl::StatusOr<std::unique_ptr<Target>> Open(const std::string& address,
                                                      const Options& options, Pace* pace);

  ObjectStore* store() { return store_.get(); }

 private:
  Target() = default;

  std::unique_ptr<CurlHttp> http_;
  std::unique_ptr<S3Calls> calls_;
  std::unique_ptr<ObjectStore> store_;
};

}  // namespace gemel::archive
