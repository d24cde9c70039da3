// SPDX-License-Identifier: Apache-2.0
#include "client/archive/target.h"

#include "client/archive/directory_store.h"
#include "client/archive/s3_store.h"
#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::archive {

absl::StatusOr<std::unique_ptr<Target>> Target::Open(const std::string& address,
                                                     const Options& options, Pace* pace) {
  GEMEL_CHECK(pace != nullptr);
  std::unique_ptr<Target> target(new Target());
  if (!IsS3Url(address)) {
    if (address.empty() || address.find("://") != std::string::npos) {
      return error::InvalidArgument("'{}' is neither a directory nor like s3://BUCKET/PREFIX",
                                    address);
    }
    target->store_ = std::make_unique<DirectoryStore>(address);
    return target;
  }
  S3Calls::Options calls;
  GEMEL_ASSIGN_OR_RETURN(calls.location, ParseS3Url(address, options.s3));
  calls.session_token = options.session_token;
  calls.patience = options.patience;
  calls.seed = options.seed;
  if (options.access_key.empty() != options.secret_key.empty()) {
    return error::InvalidArgument(
        "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set: {} needs both",
        calls.location.bucket);
  }
  GEMEL_ASSIGN_OR_RETURN(target->http_, CurlHttp::Create({.region = calls.location.region,
                                                          .access_key = options.access_key,
                                                          .secret_key = options.secret_key},
                                                         pace));
  target->calls_ = std::make_unique<S3Calls>(std::move(calls), target->http_.get(), pace);
  target->store_ = std::make_unique<S3Store>(target->calls_.get());
  return target;
}

}  // namespace gemel::archive
