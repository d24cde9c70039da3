// SPDX-License-Identifier: Apache-2.0
#include "client/archive/curl_http.h"

#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>

#include "common/check.h"
#include "common/errors.h"

namespace gemel::archive {
namespace {

constexpr Duration kPollEvery = 100ms;  // how soon a request to end is seen
constexpr long kRedirectsMax = 0;       // a redirect of S3 is an answer, not a place to go
constexpr long kExpectMs = 200;         // not every server answers "Expect: 100-continue"
constexpr uint64_t kHeadersMax = 128;

// The one table from curl's codes to ours.
absl::Status StatusOf(CURLcode code, const char* detail, const std::string& url) {
  const std::string host = url.substr(0, url.find('/', url.find("//") + 2));
  const char* why = detail[0] != '\0' ? detail : curl_easy_strerror(code);
  switch (code) {
    case CURLE_OK:
      return absl::OkStatus();
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
    case CURLE_AGAIN:
    case CURLE_WEIRD_SERVER_REPLY:
      return error::Unavailable("{} does not answer: {}", host, why);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
      return error::PermissionDenied(
          "{} is not who it says: {}; install its certificate authority (ca-certificates, or "
          "SSL_CERT_FILE)",
          host, why);
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
      return error::InvalidArgument("{} is no address for S3: {}", url, why);
    case CURLE_OUT_OF_MEMORY:
      return error::ResourceExhausted("no memory for a request to {}", host);
    case CURLE_WRITE_ERROR:
      return error::InvalidArgument("{} answers with more than {} bytes: is it an S3 server?", host,
                                    kResponseBytesMax);
    default:
      return error::Unavailable("{}: {} (curl {})", host, why, static_cast<int>(code));
  }
}

// Once a process, before any other thread uses curl.
bool StartCurl() {
  static const bool started = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  return started;
}

}  // namespace

struct CurlHttp::Transfer {
  uint64_t number = 0;
  HttpRequest request;
  HttpResponse response;
  CURL* easy = nullptr;
  curl_slist* headers = nullptr;
  size_t sent = 0;
  std::array<char, CURL_ERROR_SIZE> detail{};

  ~Transfer() {
    curl_easy_cleanup(easy);
    curl_slist_free_all(headers);
  }

  static size_t Send(char* buffer, size_t size, size_t count, void* self) {
    auto* transfer = static_cast<Transfer*>(self);
    const ByteSpan left = transfer->request.body.subspan(transfer->sent);
    const size_t bytes = std::min(left.size(), size * count);
    std::memcpy(buffer, left.data(), bytes);
    transfer->sent += bytes;
    return bytes;
  }

  static int Seek(void* self, curl_off_t offset, int origin) {
    auto* transfer = static_cast<Transfer*>(self);
    if (origin != SEEK_SET || offset < 0 ||
        static_cast<uint64_t>(offset) > transfer->request.body.size()) {
      return CURL_SEEKFUNC_CANTSEEK;
    }
    transfer->sent = static_cast<size_t>(offset);
    return CURL_SEEKFUNC_OK;
  }

  static size_t Receive(char* buffer, size_t size, size_t count, void* self) {
    auto* transfer = static_cast<Transfer*>(self);
    const size_t bytes = size * count;
    HttpResponse& response = transfer->response;
    long status = 0;
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
    const MutableByteSpan into = transfer->request.into;
    if (!into.empty() && status / 100 == 2) {
      if (bytes > into.size() - response.into_bytes) {
        return 0;
      }
      std::memcpy(into.data() + response.into_bytes, buffer, bytes);
      response.into_bytes += bytes;
      return bytes;
    }
    if (bytes > kResponseBytesMax - response.body.size()) {
      return 0;
    }
    response.body.append(buffer, bytes);
    return bytes;
  }

  static size_t Header(char* buffer, size_t size, size_t count, void* self) {
    auto* transfer = static_cast<Transfer*>(self);
    const std::string_view line(buffer, size * count);
    if (line.starts_with("HTTP/")) {
      transfer->response.headers.clear();  // of an interim response
    }
    const size_t colon = line.find(':');
    if (colon != std::string_view::npos && transfer->response.headers.size() < kHeadersMax) {
      std::string name(line.substr(0, colon));
      std::transform(name.begin(), name.end(), name.begin(),
                     [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      std::string_view value = line.substr(colon + 1);
      constexpr std::string_view kBlanks = " \t\r\n";
      value.remove_prefix(std::min(value.find_first_not_of(kBlanks), value.size()));
      value.remove_suffix(value.size() - (value.find_last_not_of(kBlanks) + 1));
      transfer->response.headers[name] = std::string(value);
    }
    return size * count;
  }
};

absl::StatusOr<std::unique_ptr<CurlHttp>> CurlHttp::Create(Options options, Pace* pace) {
  GEMEL_CHECK(pace != nullptr);
  GEMEL_CHECK_EQ(options.access_key.empty(), options.secret_key.empty());
  void* multi = StartCurl() ? curl_multi_init() : nullptr;
  if (multi == nullptr) {
    return error::Internal("libcurl cannot be started");
  }
  return std::unique_ptr<CurlHttp>(new CurlHttp(std::move(options), pace, multi));
}

CurlHttp::CurlHttp(Options options, Pace* pace, void* multi)
    : options_(std::move(options)), pace_(pace), multi_(multi) {}

CurlHttp::~CurlHttp() {
  while (!transfers_.empty()) {
    Cancel(transfers_.begin()->first);
  }
  curl_multi_cleanup(multi_);
}

void CurlHttp::SetUpBody(Transfer* transfer) {
  CURL* easy = transfer->easy;
  const HttpRequest& request = transfer->request;
  if (request.method == "HEAD") {
    curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
  } else if (request.method == "PUT") {
    curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, Transfer::Send);
    curl_easy_setopt(easy, CURLOPT_READDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, Transfer::Seek);
    curl_easy_setopt(easy, CURLOPT_SEEKDATA, transfer);
  } else if (request.method == "POST") {
    curl_easy_setopt(easy, CURLOPT_POST, 1L);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
                     static_cast<curl_off_t>(request.body.size()));
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS,
                     request.body.empty() ? "" : AsText(request.body).data());
  } else if (request.method != "GET") {
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  }
}

void CurlHttp::SetUp(Transfer* transfer) {
  CURL* easy = transfer->easy;
  for (const auto& [name, value] : transfer->request.headers) {
    transfer->headers = curl_slist_append(transfer->headers, (name + ": " + value).c_str());
  }
  if (transfer->request.method == "POST") {
    transfer->headers = curl_slist_append(transfer->headers, "Content-Type: application/xml");
  }
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->headers);
  curl_easy_setopt(easy, CURLOPT_URL, transfer->request.url.c_str());
  curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy, CURLOPT_MAXREDIRS, kRedirectsMax);
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_EXPECT_100_TIMEOUT_MS, kExpectMs);
  curl_easy_setopt(easy, CURLOPT_USERAGENT, "gemel");
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->detail.data());
  curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, Transfer::Receive);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, Transfer::Header);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer);
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                   static_cast<long>(Milliseconds(options_.connect_within)));
  const auto stalled_s = static_cast<long>(Milliseconds(options_.stalled_after) / 1000);
  curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, std::max(stalled_s, 1L));
  if (!options_.access_key.empty()) {
    curl_easy_setopt(easy, CURLOPT_AWS_SIGV4, ("aws:amz:" + options_.region + ":s3").c_str());
    curl_easy_setopt(easy, CURLOPT_USERNAME, options_.access_key.c_str());
    curl_easy_setopt(easy, CURLOPT_PASSWORD, options_.secret_key.c_str());
  }
  SetUpBody(transfer);
}

uint64_t CurlHttp::Begin(HttpRequest request) {
  auto transfer = std::make_unique<Transfer>();
  transfer->number = ++last_number_;
  transfer->request = std::move(request);
  transfer->easy = curl_easy_init();
  GEMEL_CHECK(transfer->easy != nullptr) << "no memory for a request";
  SetUp(transfer.get());
  GEMEL_CHECK_EQ(curl_multi_add_handle(multi_, transfer->easy), CURLM_OK);
  const uint64_t number = transfer->number;
  transfers_.emplace(number, std::move(transfer));
  return number;
}

std::optional<HttpDone> CurlHttp::TakeDone() {
  int left = 0;
  while (const CURLMsg* message = curl_multi_info_read(multi_, &left)) {
    if (message->msg != CURLMSG_DONE) {
      continue;
    }
    Transfer* transfer = nullptr;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
    GEMEL_CHECK(transfer != nullptr);
    long status = 0;
    curl_easy_getinfo(message->easy_handle, CURLINFO_RESPONSE_CODE, &status);
    transfer->response.status = static_cast<int>(status);
    const absl::Status how =
        StatusOf(message->data.result, transfer->detail.data(), transfer->request.url);
    const uint64_t number = transfer->number;
    absl::StatusOr<HttpResponse> response = std::move(transfer->response);
    if (!how.ok()) {
      response = how;
    }
    Cancel(number);
    return HttpDone{number, std::move(response)};
  }
  return std::nullopt;
}

std::optional<HttpDone> CurlHttp::Next(TimePoint deadline) {
  while (true) {
    const auto cut = std::find_if(transfers_.begin(), transfers_.end(), [](const auto& entry) {
      return !entry.second->request.also_when_ending;
    });
    if (cut != transfers_.end() && pace_->stopping()) {
      const uint64_t number = cut->first;
      Cancel(number);
      return HttpDone{number, error::Cancelled("asked to end")};
    }
    int running = 0;
    GEMEL_CHECK_EQ(curl_multi_perform(multi_, &running), CURLM_OK);
    if (std::optional<HttpDone> done = TakeDone(); done.has_value()) {
      return done;
    }
    const TimePoint now = pace_->Now();
    if (now >= deadline) {
      return std::nullopt;
    }
    const Duration wait = std::min<Duration>(kPollEvery, deadline - now);
    const auto wait_ms = static_cast<int>(Milliseconds(wait)) + 1;
    GEMEL_CHECK_EQ(curl_multi_poll(multi_, nullptr, 0, wait_ms, nullptr), CURLM_OK);
  }
}

void CurlHttp::Cancel(uint64_t number) {
  const auto found = transfers_.find(number);
  if (found == transfers_.end()) {
    return;
  }
  curl_multi_remove_handle(multi_, found->second->easy);
  transfers_.erase(found);
}

}  // namespace gemel::archive
