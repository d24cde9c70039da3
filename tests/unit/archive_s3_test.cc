// SPDX-License-Identifier: Apache-2.0
//
// S3Store against a bucket in memory behind the HTTP interface: what is asked, how often, and what
// answers mean. Signatures and real servers: tests/e2e/s3_test.py.
#include <gtest/gtest.h>

#include <deque>
#include <functional>

#include "client/archive/body_digest.h"
#include "client/archive/s3_calls.h"
#include "client/archive/s3_store.h"
#include "client/archive/s3_upload.h"
#include "client/archive/s3_xml.h"
#include "tests/unit/archive_fakes.h"

namespace gemel::archive {
namespace {

// Answers in the order of the requests; `fault` may answer in its place.
class FakeBucket final : public HttpClient {
 public:
  explicit FakeBucket(FakePace* pace) : pace_(pace) {}

  uint64_t Begin(HttpRequest request) override {
    log.push_back(request.method + " " + request.url.substr(request.url.find("/bucket")));
    bodies.emplace_back(AsText(request.body));
    waiting_.emplace_back(++number_, std::move(request));
    most_waiting = std::max(most_waiting, waiting_.size());
    return number_;
  }

  std::optional<HttpDone> Next(TimePoint deadline) override {
    if (waiting_.empty()) {
      pace_->now = std::max(pace_->now, deadline);
      return std::nullopt;
    }
    auto [number, request] = std::move(waiting_.front());
    waiting_.pop_front();
    std::optional<absl::StatusOr<HttpResponse>> answer;
    if (fault) {
      answer = fault(request);
    }
    return HttpDone{number, answer.has_value() ? *answer : Answer(request)};
  }

  void Cancel(uint64_t number) override {
    std::erase_if(waiting_, [number](const auto& entry) { return entry.first == number; });
  }

  static HttpResponse Status(int status, const std::string& code = "") {
    HttpResponse response;
    response.status = status;
    response.body =
        code.empty() ? "" : "<Error><Code>" + code + "</Code><Message>because</Message></Error>";
    return response;
  }

  std::function<std::optional<absl::StatusOr<HttpResponse>>(const HttpRequest&)> fault;
  std::map<std::string, std::string> objects;
  std::map<std::string, std::string> parts;  // of the one upload, by number
  std::vector<std::string> log;
  std::vector<std::string> bodies;
  size_t most_waiting = 0;
  bool uploading = false;

 private:
  static std::string Query(const std::string& url, const std::string& name) {
    const size_t at = url.find(name + "=");
    return at == std::string::npos
               ? ""
               : url.substr(at + name.size() + 1, url.find('&', at) - at - name.size() - 1);
  }

  HttpResponse Answer(const HttpRequest& request) {
    const size_t question = std::min(request.url.find('?'), request.url.size());
    const std::string query = request.url.substr(question);
    const std::string path = request.url.substr(0, question);
    const std::string key = path.substr(path.find("/bucket") + 8);
    HttpResponse response = Status(200);
    if (request.method == "PUT") {
      const std::string part = Query(query, "partNumber");
      (part.empty() ? objects[key] : parts[part]) = std::string(AsText(request.body));
      response.headers["etag"] = '"' + HexOf(Md5(request.body)) + '"';
    } else if (request.method == "POST" && query == "?uploads=") {
      uploading = true;
      response.body = "<X><UploadId>id/1</UploadId></X>";
    } else if (request.method == "POST") {
      if (!uploading) {
        return Status(404, "NoSuchUpload");
      }
      for (size_t i = 1; i <= parts.size(); ++i) {
        objects[key] += parts[fmt::to_string(i)];
      }
      uploading = false;
    } else if (request.method == "DELETE") {
      uploading = uploading && query.empty();
      objects.erase(key);
      response.status = 204;
    } else if (objects.count(key) == 0) {
      return Status(404, "NoSuchKey");
    } else if (request.method == "HEAD") {
      response.headers["content-length"] = fmt::to_string(objects[key].size());
    } else {
      const std::string& range = request.headers.at(0).second;
      const std::string bytes =
          objects[key].substr(std::stoull(range.substr(6)), request.into.size());
      std::memcpy(request.into.data(), bytes.data(), bytes.size());
      response.into_bytes = bytes.size();
    }
    return response;
  }

  FakePace* const pace_;
  uint64_t number_ = 0;
  std::deque<std::pair<uint64_t, HttpRequest>> waiting_;
};

class ArchiveS3 : public ::testing::Test {
 protected:
  std::string Large() {
    std::string content(2 * kPartBytes + 12345, '\0');
    Random random(1);
    for (size_t i = 0; i < content.size(); i += 4096) {
      content[i] = static_cast<char>(random.Next());
    }
    return content;
  }

  FakePace pace_;
  FakeBucket bucket_{&pace_};
  S3Calls calls_{{.location = *ParseS3Url("s3://bucket/p?endpoint=http://127.0.0.1:1", {}),
                  .session_token = "token",
                  .patience = 60s},
                 &bucket_,
                 &pace_};
  S3Store store_{&calls_};
};

TEST_F(ArchiveS3, KeepsASmallFileWithOnePut) {
  ASSERT_TRUE(PutObject(&store_, "a/b", "content").ok());
  EXPECT_EQ(bucket_.log, std::vector<std::string>{"PUT /bucket/p/a/b"});
  EXPECT_EQ(*GetObject(&store_, "a/b", 100), "content");
  EXPECT_TRUE(absl::IsNotFound(GetObject(&store_, "other", 100).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(GetObject(&store_, "a/b", 3).status()));
  EXPECT_TRUE(PutObject(&store_, "empty", "").ok());
  EXPECT_EQ(*store_.Size("empty"), 0U);
}

TEST_F(ArchiveS3, SendsALargeFileInBoundedParts) {
  const std::string content = Large() + Large();
  ASSERT_TRUE(PutObject(&store_, "large", content).ok());
  EXPECT_TRUE(bucket_.objects["p/large"] == content);
  EXPECT_LE(bucket_.most_waiting, kPartsInFlight);
  EXPECT_EQ(bucket_.log.front(), "POST /bucket/p/large?uploads=");
  EXPECT_EQ(bucket_.log[1], "PUT /bucket/p/large?partNumber=1&uploadId=id%2F1");
  EXPECT_EQ(bucket_.log.back(), "POST /bucket/p/large?uploadId=id%2F1");
}

TEST_F(ArchiveS3, TriesAgainAfterWhatPassesAndGivesUpInTime) {
  int faults = 0;
  bucket_.fault = [&](const HttpRequest&) -> std::optional<absl::StatusOr<HttpResponse>> {
    const int turn = faults++;
    if (turn >= 5) {
      return std::nullopt;
    }
    const std::array<absl::StatusOr<HttpResponse>, 5> answers = {
        FakeBucket::Status(503, "SlowDown"), FakeBucket::Status(500), FakeBucket::Status(429),
        FakeBucket::Status(400, "RequestTimeout"), error::Unavailable("cut")};
    return answers[static_cast<size_t>(turn)];
  };
  ASSERT_TRUE(PutObject(&store_, "x", "content").ok());
  EXPECT_EQ(bucket_.log.size(), 6U);
  EXPECT_GT(pace_.now.time_since_epoch(), 200ms);

  const TimePoint started = pace_.now;
  bucket_.fault = [](const HttpRequest&) { return FakeBucket::Status(503, "SlowDown"); };
  const absl::Status status = PutObject(&store_, "x", "content");
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_NE(status.message().find("503 SlowDown"), std::string::npos) << status;
  EXPECT_LE(pace_.now - started, 61s);
  EXPECT_GE(pace_.now - started, 50s);
  EXPECT_LT(bucket_.log.size(), 60U) << "no hammering";
}

TEST_F(ArchiveS3, AnUploadThatIsGivenUpIsAborted) {
  bucket_.fault = [](const HttpRequest& request) -> std::optional<absl::StatusOr<HttpResponse>> {
    if (request.url.find("partNumber=2") != std::string::npos) {
      return FakeBucket::Status(403, "AccessDenied");
    }
    return std::nullopt;
  };
  EXPECT_TRUE(absl::IsPermissionDenied(PutObject(&store_, "large", Large())));
  EXPECT_EQ(bucket_.log.back(), "DELETE /bucket/p/large?uploadId=id%2F1");
  EXPECT_FALSE(bucket_.uploading);
  EXPECT_TRUE(bucket_.objects.empty());
}

TEST_F(ArchiveS3, ACompletionWhoseAnswerWasLostIsDone) {
  bool lost = false;
  bucket_.fault = [&](const HttpRequest& request) -> std::optional<absl::StatusOr<HttpResponse>> {
    if (request.method == "POST" && !request.body.empty() && !lost) {
      lost = true;
      bucket_.uploading = false;
      bucket_.objects["p/large"] = Large();
      return error::Unavailable("cut");
    }
    return std::nullopt;
  };
  EXPECT_TRUE(PutObject(&store_, "large", Large()).ok());
  EXPECT_TRUE(lost);
}

TEST_F(ArchiveS3, ACompletionThatIsAnErrorInsideA200IsNotDone) {
  bucket_.fault = [](const HttpRequest& request) -> std::optional<absl::StatusOr<HttpResponse>> {
    if (request.method == "POST" && !request.body.empty()) {
      return FakeBucket::Status(200, "InternalError");
    }
    return std::nullopt;
  };
  const absl::Status status = PutObject(&store_, "large", Large());
  EXPECT_NE(status.message().find("InternalError"), std::string::npos) << status;
  EXPECT_FALSE(bucket_.uploading);
}

TEST_F(ArchiveS3, AnETagOfOtherBytesIsDataLoss) {
  bool encrypted = false;
  bucket_.fault = [&](const HttpRequest&) -> std::optional<absl::StatusOr<HttpResponse>> {
    HttpResponse response = FakeBucket::Status(200);
    response.headers["etag"] = '"' + HexOf(Md5(AsBytes("other"))) + '"';
    if (encrypted) {
      response.headers["x-amz-server-side-encryption"] = "aws:kms";
    }
    return response;
  };
  EXPECT_TRUE(absl::IsDataLoss(PutObject(&store_, "x", "content")));
  encrypted = true;
  EXPECT_TRUE(PutObject(&store_, "x", "content").ok());
}

TEST_F(ArchiveS3, AnswersNameBucketKeyAndTheWayOut) {
  const std::vector<std::tuple<int, std::string, absl::StatusCode, std::string>> answers = {
      {403, "InvalidAccessKeyId", absl::StatusCode::kPermissionDenied, "AWS_ACCESS_KEY_ID"},
      {403, "AccessDenied", absl::StatusCode::kPermissionDenied, "the right to"},
      {403, "RequestTimeTooSkewed", absl::StatusCode::kPermissionDenied, "clock"},
      {404, "NoSuchBucket", absl::StatusCode::kNotFound, "make the bucket"},
      {412, "PreconditionFailed", absl::StatusCode::kFailedPrecondition, "somebody else"},
      {301, "PermanentRedirect", absl::StatusCode::kFailedPrecondition, "region"},
      {400, "BadDigest", absl::StatusCode::kDataLoss, "changed on the way"},
      {400, "InvalidRequest", absl::StatusCode::kInvalidArgument, "InvalidRequest"},
      {501, "NotImplemented", absl::StatusCode::kInvalidArgument, "NotImplemented"}};
  for (const auto& [status, code, expected, word] : answers) {
    bucket_.fault = [status = status, code = code](const HttpRequest&) {
      return FakeBucket::Status(status, code);
    };
    const size_t before = bucket_.log.size();
    const absl::Status error = PutObject(&store_, "k", "x");
    EXPECT_EQ(error.code(), expected) << error;
    EXPECT_NE(error.message().find("s3://bucket/p/k"), std::string::npos) << error;
    EXPECT_NE(error.message().find(word), std::string::npos) << error;
    EXPECT_EQ(bucket_.log.size(), before + 1) << "tried again";
  }
}

TEST_F(ArchiveS3, ListsPageByPage) {
  int page = 0;
  bucket_.fault = [&](const HttpRequest&) -> std::optional<absl::StatusOr<HttpResponse>> {
    HttpResponse response = FakeBucket::Status(200);
    response.body =
        ++page == 1
            ? "<L><Contents><Key>p/b</Key><Size>2</Size></Contents><IsTruncated>true</IsTruncated>"
              "<NextContinuationToken>t/1=</NextContinuationToken></L>"
            : "<L><Contents><Key>p/a</Key><Size>1</Size></Contents><Contents><Key>q</Key><Size>1"
              "</Size></Contents><IsTruncated>false</IsTruncated></L>";
    return response;
  };
  const auto found = store_.List("");
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->size(), 2U);
  EXPECT_EQ((*found)[0].key, "a");
  EXPECT_EQ((*found)[1].bytes, 2U);
  EXPECT_EQ(bucket_.log[1], "GET /bucket/?continuation-token=t%2F1%3D&list-type=2&prefix=p%2F");
}

TEST_F(ArchiveS3, UnfinishedUploadsOfTheDeadAreAborted) {
  bucket_.fault = [&](const HttpRequest& request) -> std::optional<absl::StatusOr<HttpResponse>> {
    HttpResponse response = FakeBucket::Status(request.method == "GET" ? 200 : 204);
    response.body =
        "<U><Upload><Key>p/j/x</Key><UploadId>9</UploadId></Upload>"
        "<Upload><Key>other</Key><UploadId>8</UploadId></Upload></U>";
    return response;
  };
  ASSERT_TRUE(store_.RemoveUnfinished("j/").ok());
  EXPECT_EQ(bucket_.log, (std::vector<std::string>{"GET /bucket/?prefix=p%2Fj%2F&uploads=",
                                                   "DELETE /bucket/p/j/x?uploadId=9"}));
}

TEST_F(ArchiveS3, ACutObjectIsDataLoss) {
  ASSERT_TRUE(PutObject(&store_, "k", "short").ok());
  std::array<std::byte, 9> into{};
  EXPECT_TRUE(absl::IsDataLoss(store_.Read("k", 0, into)));
}

TEST_F(ArchiveS3, AFileBeyondAllPartsIsRefusedBeforeItIsSent) {
  EXPECT_TRUE(absl::IsInvalidArgument(store_.Create("k", kPartsMax * kPartBytesMax + 1).status()));
  EXPECT_TRUE(bucket_.log.empty());
}

}  // namespace
}  // namespace gemel::archive
