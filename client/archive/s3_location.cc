// SPDX-License-Identifier: Apache-2.0
#include "client/archive/s3_location.h"

#include <algorithm>

#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::archive {
namespace {

constexpr std::string_view kScheme = "s3://";
constexpr size_t kBucketBytesMin = 3;
constexpr size_t kBucketBytesMax = 63;
constexpr size_t kPrefixBytesMax = 512;

static_assert(kBucketBytesMin <= kBucketBytesMax);

bool IsUnreserved(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '.' || c == '_' || c == '~';
}

bool IsHostChar(char c) { return IsUnreserved(c) || c == ':' || c == '[' || c == ']'; }

bool IsLoopback(std::string_view host) {
  return host == "localhost" || host.starts_with("localhost:") || host.starts_with("127.") ||
         host.starts_with("[::1]");
}

absl::Status CheckBucket(std::string_view bucket, std::string_view url) {
  const bool good = bucket.size() >= kBucketBytesMin && bucket.size() <= kBucketBytesMax &&
                    std::all_of(bucket.begin(), bucket.end(), IsUnreserved);
  return good ? absl::OkStatus()
              : error::InvalidArgument(
                    "'{}' names the bucket '{}': a bucket has {} to {} of a-z, 0-9, '-' and '.', "
                    "as in s3://BUCKET/PREFIX",
                    url, bucket, kBucketBytesMin, kBucketBytesMax);
}

absl::Status CheckEndpoint(const S3Location& location, bool insecure) {
  const std::string_view endpoint = location.endpoint;
  const bool http = endpoint.starts_with("http://");
  if (!http && !endpoint.starts_with("https://")) {
    return error::InvalidArgument("endpoint '{}' is not like https://HOST or http://HOST:PORT",
                                  endpoint);
  }
  const std::string_view host = endpoint.substr(http ? 7 : 8);
  if (host.empty() || !std::all_of(host.begin(), host.end(), IsHostChar)) {
    return error::InvalidArgument("endpoint '{}': '{}' is no host", endpoint, host);
  }
  if (http && !insecure && !IsLoopback(host)) {
    return error::PermissionDenied(
        "endpoint '{}' is not encrypted: what is sent could be read on the way; use https, or say "
        "--insecure",
        endpoint);
  }
  return absl::OkStatus();
}

std::string WithoutSlashes(std::string_view text) {
  while (text.ends_with('/')) {
    text.remove_suffix(1);
  }
  while (text.starts_with('/')) {
    text.remove_prefix(1);
  }
  return std::string(text);
}

absl::Status ReadOption(std::string_view option, S3Location* location, std::string* style) {
  const size_t equals = option.find('=');
  const std::string_view name = option.substr(0, equals);
  const std::string_view value =
      equals == std::string_view::npos ? std::string_view() : option.substr(equals + 1);
  if (name == "endpoint" && !value.empty()) {
    location->endpoint = value;
  } else if (name == "region" && !value.empty() &&
             std::all_of(value.begin(), value.end(), IsUnreserved)) {
    location->region = value;
  } else if (name == "style" && (value == "path" || value == "host")) {
    *style = value;
  } else {
    return error::InvalidArgument(
        "'{}' is no option of an s3:// address: there are endpoint=URL, region=NAME and "
        "style=path|host",
        option);
  }
  return absl::OkStatus();
}

}  // namespace

bool IsS3Url(std::string_view url) { return url.starts_with(kScheme); }

absl::StatusOr<S3Location> ParseS3Url(std::string_view url, const S3Defaults& defaults) {
  if (!IsS3Url(url)) {
    return error::InvalidArgument("'{}' is not like s3://BUCKET/PREFIX", url);
  }
  S3Location location;
  location.endpoint = defaults.endpoint;
  location.region = defaults.region.empty() ? location.region : defaults.region;
  std::string style;
  const size_t question = std::min(url.find('?'), url.size());
  for (size_t at = question; at < url.size();) {
    const size_t end = std::min(url.find('&', at + 1), url.size());
    GEMEL_RETURN_IF_ERROR(ReadOption(url.substr(at + 1, end - at - 1), &location, &style));
    at = end;
  }
  const std::string_view path = url.substr(kScheme.size(), question - kScheme.size());
  const size_t slash = std::min(path.find('/'), path.size());
  location.bucket = path.substr(0, slash);
  location.prefix = WithoutSlashes(path.substr(slash));
  GEMEL_RETURN_IF_ERROR(CheckBucket(location.bucket, url));
  if (location.prefix.size() > kPrefixBytesMax || location.prefix.find("//") != std::string::npos) {
    return error::InvalidArgument("'{}': the prefix has more than {} bytes, or an empty part", url,
                                  kPrefixBytesMax);
  }
  const bool named = !location.endpoint.empty();
  if (!named) {
    location.endpoint = fmt::format("https://s3.{}.amazonaws.com", location.region);
  }
  location.endpoint.erase(location.endpoint.find_last_not_of('/') + 1);
  location.path_style = style.empty() ? named : style == "path";
  GEMEL_RETURN_IF_ERROR(CheckEndpoint(location, defaults.insecure));
  return location;
}

std::string PercentEncode(std::string_view text, bool keep_slash) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::string encoded;
  for (const char c : text) {
    if (IsUnreserved(c) || (keep_slash && c == '/')) {
      encoded += c;
    } else {
      const auto byte = static_cast<uint8_t>(c);
      encoded += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return encoded;
}

std::string S3Location::Url(std::string_view key,
                            const std::map<std::string, std::string>& query) const {
  std::string url = endpoint;
  if (path_style) {
    url += "/" + bucket;
  } else {
    url.insert(url.find("//") + 2, bucket + ".");
  }
  url += "/" + PercentEncode(key, true);
  char separator = '?';
  for (const auto& [name, value] : query) {
    url += separator + PercentEncode(name, false) + "=" + PercentEncode(value, false);
    separator = '&';
  }
  return url;
}

}  // namespace gemel::archive
