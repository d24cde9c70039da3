// SPDX-License-Identifier: Apache-2.0
//
// Where a bucket is and how its requests are addressed:
//
//   s3://BUCKET/PREFIX?endpoint=http://127.0.0.1:8333&region=us-east-1&style=path
//
// Without an endpoint it is AWS in that region. `style` is "path" (https://HOST/BUCKET/KEY) or
// "host" (https://BUCKET.HOST/KEY); default: host for AWS, path for an endpoint that is named.
//
// Thread safety: values; functions are pure.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace gemel::archive {

struct S3Location {
  std::string bucket;
  std::string prefix;    // without slashes at its ends; may be empty
  std::string endpoint;  // "https://host[:port]", without a path
  std::string region = "us-east-1";
  bool path_style = false;

  // Escaped, canonical for a signature: the query by rising name, '=' after every name.
  std::string Url(std::string_view key, const std::map<std::string, std::string>& query) const;
};

struct S3Defaults {
  std::string endpoint;   // of AWS_ENDPOINT_URL; empty: AWS
  std::string region;     // of AWS_REGION; empty: us-east-1
  bool insecure = false;  // http beyond this machine is wanted
};

bool IsS3Url(std::string_view url);

// InvalidArgument, naming what is wrong with `url`; PermissionDenied for http to another machine,
// where credentials and state would go in clear.
absl::StatusOr<S3Location> ParseS3Url(std::string_view url, const S3Defaults& defaults);

// RFC 3986: everything but letters, digits and "-._~" becomes %XX; '/' too unless `keep_slash`.
std::string PercentEncode(std::string_view text, bool keep_slash);

}  // namespace gemel::archive
