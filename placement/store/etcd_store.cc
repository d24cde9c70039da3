// SPDX-License-Identifier: Apache-2.0
#include "placement/store/etcd_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_join.h"

#include "common/check.h"
#include "common/codec.h"
#include "common/errors.h"
#include "common/ids.h"
#include "common/status_macros.h"
#include "placement/store/etcd_client.h"

namespace gemel {
namespace {

using etcdserverpb::Compare;
using etcdserverpb::RangeRequest;
using etcdserverpb::RangeResponse;
using etcdserverpb::TxnRequest;
using etcdserverpb::TxnResponse;

// How far the history of `v` is followed: transactions that were applied while the quota ran out.
constexpr int kHistoryMax = 64;
// A list whose revision is compacted under it begins anew so often.
constexpr int kListTriesMax = 4;
// The first transaction of all, while its outcome is not known.
constexpr int kOpenTriesMax = 8;

struct WriterTag {
  static constexpr const char* kName = "writer";
};

using WriterId = Id128<WriterTag>;

// The end of the range of all keys that begin with `prefix`.
std::string EndOfPrefix(std::string prefix) {
  while (!prefix.empty() && static_cast<uint8_t>(prefix.back()) == 0xff) {
    prefix.pop_back();
  }
  GEMEL_CHECK(!prefix.empty()) << "every key begins with /gemel/";
  prefix.back() = static_cast<char>(static_cast<uint8_t>(prefix.back()) + 1);
  return prefix;
}

Versioned ToVersioned(const mvccpb::KeyValue& found) {
  GEMEL_CHECK_GT(found.mod_revision(), 0) << found.key();
  return {found.value(), static_cast<uint64_t>(found.mod_revision())};
}

}  // namespace

struct EtcdStore::Core {
  Core(std::shared_ptr<EtcdClient> client, const Options& options, WriterId writer)
      : client(std::move(client)),
        key_prefix(options.address.Prefix() + "k/"),
        version_key(options.address.Prefix() + "v"),
        page_keys(static_cast<int64_t>(options.page_keys)),
        writer(writer) {}

  std::string Stored(const std::string& key) const { return key_prefix + key; }

  // What no other transaction puts at `v`.
  std::string NextMark() {
    Encoder encoder;
    encoder.Int(++transactions);
    return writer.ToBytes() + encoder.Take();
  }

  void Saw(int64_t mark_revision) { newest_mark = std::max(newest_mark, mark_revision); }

  absl::Status PutBack(int64_t revision) const {
    return client->Distrust(error::DataLoss(
        "{}: its key {} was last put at revision {} after {} was seen: a backup was restored or "
        "keys "
        "were deleted; stop every gemel-placement and start anew with --recover-from-servers under "
        "another name",
        client->name(), version_key, revision, newest_mark));
  }

  const std::shared_ptr<EtcdClient> client;
  const std::string key_prefix;
  const std::string version_key;
  const int64_t page_keys;
  const WriterId writer;
  uint64_t transactions = 0;
  int64_t newest_mark = 0;  // the highest revision at which `v` was seen to be put
  size_t under_way = 0;

  static Task<absl::StatusOr<RangeResponse>> ReadMark(std::shared_ptr<Core> core, int64_t revision);
  static Task<absl::Status> Begin(std::shared_ptr<Core> core);
  static Task<absl::StatusOr<std::optional<Versioned>>> Get(std::shared_ptr<Core> core,
                                                            std::string key);
  static Task<absl::StatusOr<std::vector<KeyValue>>> List(std::shared_ptr<Core> core,
                                                          std::string prefix);
  static Task<absl::StatusOr<std::vector<KeyValue>>> ListOnce(std::shared_ptr<Core> core,
                                                              std::string prefix);
  static Task<absl::StatusOr<CommitResult>> Commit(std::shared_ptr<Core> core, Txn txn);
  static Task<absl::StatusOr<CommitResult>> AfterNoSpace(std::shared_ptr<Core> core,
                                                         std::string mark, int64_t before,
                                                         absl::Status why);
  TxnRequest Request(const Txn& txn, const std::string& mark) const;
};

namespace {

// Counts a call under way.
class UnderWay {
 public:
  explicit UnderWay(size_t* count) : count_(count) { *count_ += 1; }

  UnderWay(const UnderWay&) = delete;
  UnderWay& operator=(const UnderWay&) = delete;

  ~UnderWay() {
    GEMEL_CHECK_GT(*count_, 0U);
    *count_ -= 1;
  }

 private:
  size_t* count_;
};

absl::Status CheckRoom(size_t under_way, const std::string& name) {
  if (under_way < kEtcdOperationsMax) {
    return absl::OkStatus();
  }
  return error::ResourceExhausted("{} calls to {} are under way, the most there may be", under_way,
                                  name);
}

void AddCompare(TxnRequest* request, std::string key, Compare::CompareResult result,
                int64_t revision) {
  Compare* compare = request->add_compare();
  compare->set_result(result);
  compare->set_target(Compare::MOD);
  compare->set_key(std::move(key));
  compare->set_mod_revision(revision);
}

void AddPut(TxnRequest* request, std::string key, std::string value) {
  etcdserverpb::PutRequest* put = request->add_success()->mutable_request_put();
  put->set_key(std::move(key));
  put->set_value(std::move(value));
}

}  // namespace

Task<absl::StatusOr<RangeResponse>> EtcdStore::Core::ReadMark(std::shared_ptr<Core> core,
                                                              int64_t revision) {
  RangeRequest request;
  request.set_key(core->version_key);
  request.set_revision(revision);
  absl::StatusOr<RangeResponse> found =
      co_await EtcdClient::Range(core->client, std::move(request));
  if (found.ok() && revision == 0 && found->kvs_size() > 0) {
    core->Saw(found->kvs(0).mod_revision());
  }
  co_return found;
}

// `v` is there from the first opening on, so that its compare always means something.
Task<absl::Status> EtcdStore::Core::Begin(std::shared_ptr<Core> core) {
  absl::Status made_status;
  for (int i = 0; i < kOpenTriesMax; ++i) {
    const absl::StatusOr<RangeResponse> found = co_await ReadMark(core, 0);
    GEMEL_CO_RETURN_IF_ERROR(found.status());
    if (core->newest_mark != 0) {
      co_return absl::OkStatus();
    }
    TxnRequest request;
    AddCompare(&request, core->version_key, Compare::EQUAL, 0);
    AddPut(&request, core->version_key, core->NextMark());
    const absl::StatusOr<TxnResponse> made =
        co_await EtcdClient::Txn(core->client, std::move(request));
    if (!made.ok() && made.status().code() != absl::StatusCode::kUnknown) {
      co_return made.status();
    }
    made_status = made.status();
  }
  co_return error::Unavailable("{}: its first key is not there after {} tries: {}",
                               core->client->name(), kOpenTriesMax, MessageOf(made_status));
}

Task<absl::StatusOr<std::optional<Versioned>>> EtcdStore::Core::Get(std::shared_ptr<Core> core,
                                                                    std::string key) {
  GEMEL_CO_RETURN_IF_ERROR(CheckRoom(core->under_way, core->client->name()));
  const UnderWay counted(&core->under_way);
  RangeRequest request;
  request.set_key(core->Stored(key));
  const absl::StatusOr<RangeResponse> found =
      co_await EtcdClient::Range(core->client, std::move(request));
  GEMEL_CO_RETURN_IF_ERROR(found.status());
  std::optional<Versioned> value;
  if (found->kvs_size() > 0) {
    value = ToVersioned(found->kvs(0));
  }
  co_return value;
}

// Page by page at the revision of the first.
Task<absl::StatusOr<std::vector<KeyValue>>> EtcdStore::Core::ListOnce(std::shared_ptr<Core> core,
                                                                      std::string prefix) {
  RangeRequest request;
  request.set_key(core->Stored(prefix));
  request.set_range_end(EndOfPrefix(core->Stored(prefix)));
  request.set_limit(core->page_keys);
  std::vector<KeyValue> listed;
  while (true) {
    const absl::StatusOr<RangeResponse> page = co_await EtcdClient::Range(core->client, request);
    if (page.status().code() == absl::StatusCode::kResourceExhausted && request.limit() > 1) {
      request.set_limit(request.limit() / 2);
      continue;
    }
    GEMEL_CO_RETURN_IF_ERROR(page.status());
    for (const mvccpb::KeyValue& found : page->kvs()) {
      GEMEL_CHECK(found.key().starts_with(core->key_prefix)) << found.key();
      listed.emplace_back(found.key().substr(core->key_prefix.size()), ToVersioned(found));
    }
    if (!page->more() || page->kvs_size() == 0) {
      co_return listed;
    }
    if (request.revision() == 0) {
      request.set_revision(page->header().revision());
    }
    request.set_key(page->kvs(page->kvs_size() - 1).key() + '\0');
  }
}

Task<absl::StatusOr<std::vector<KeyValue>>> EtcdStore::Core::List(std::shared_ptr<Core> core,
                                                                  std::string prefix) {
  GEMEL_CO_RETURN_IF_ERROR(CheckRoom(core->under_way, core->client->name()));
  const UnderWay counted(&core->under_way);
  absl::StatusOr<std::vector<KeyValue>> listed = co_await ListOnce(core, prefix);
  for (int i = 1; i < kListTriesMax && listed.status().code() == absl::StatusCode::kOutOfRange;
       ++i) {
    listed = co_await ListOnce(core, prefix);
  }
  if (listed.status().code() == absl::StatusCode::kOutOfRange) {
    co_return error::Unavailable("{}: it was compacted under {} reads of all keys: {}",
                                 core->client->name(), kListTriesMax, MessageOf(listed.status()));
  }
  co_return listed;
}

TxnRequest EtcdStore::Core::Request(const Txn& txn, const std::string& mark) const {
  GEMEL_CHECK_GT(newest_mark, 0) << version_key;
  TxnRequest request;
  for (const Txn::Compare& compare : txn.compares) {
    AddCompare(&request, Stored(compare.key), Compare::EQUAL,
               static_cast<int64_t>(compare.version.value_or(0)));
  }
  AddCompare(&request, version_key, Compare::GREATER, newest_mark - 1);
  for (const auto& [key, value] : txn.puts) {
    AddPut(&request, Stored(key), value);
  }
  for (const std::string& key : txn.deletes) {
    request.add_success()->mutable_request_delete_range()->set_key(Stored(key));
  }
  AddPut(&request, version_key, mark);
  request.add_failure()->mutable_request_range()->set_key(version_key);
  return request;
}

Task<absl::StatusOr<CommitResult>> EtcdStore::Core::Commit(std::shared_ptr<Core> core, Txn txn) {
  GEMEL_CO_RETURN_IF_ERROR(CheckTxn(txn));
  GEMEL_CO_RETURN_IF_ERROR(CheckRoom(core->under_way, core->client->name()));
  const UnderWay counted(&core->under_way);
  const std::string mark = core->NextMark();
  const int64_t before = core->newest_mark;
  TxnRequest request = core->Request(txn, mark);
  const absl::StatusOr<TxnResponse> answer =
      co_await EtcdClient::Txn(core->client, std::move(request));
  if (answer.status().code() == absl::StatusCode::kResourceExhausted) {
    co_return co_await AfterNoSpace(core, mark, before, answer.status());
  }
  GEMEL_CO_RETURN_IF_ERROR(answer.status());
  if (answer->succeeded()) {
    GEMEL_CHECK_GT(answer->header().revision(), before) << core->version_key;
    core->Saw(answer->header().revision());
    co_return CommitResult{.applied = true,
                           .version = static_cast<uint64_t>(answer->header().revision())};
  }
  const bool there =
      answer->responses_size() == 1 && answer->responses(0).response_range().kvs_size() == 1;
  const int64_t put_at =
      there ? answer->responses(0).response_range().kvs(0).mod_revision() : int64_t{0};
  if (put_at < before) {
    co_return core->PutBack(put_at);
  }
  core->Saw(put_at);
  co_return CommitResult{};
}

// The transaction that exceeds the quota is applied and answered with the error; the next ones are
// refused. Which of both this was, the history of `v` tells: nothing of it is under way any more.
Task<absl::StatusOr<CommitResult>> EtcdStore::Core::AfterNoSpace(std::shared_ptr<Core> core,
                                                                 std::string mark, int64_t before,
                                                                 absl::Status why) {
  GEMEL_CHECK(!why.ok());
  int64_t revision = 0;
  for (int i = 0; i < kHistoryMax; ++i) {
    const absl::StatusOr<RangeResponse> found = co_await ReadMark(core, revision);
    if (!found.ok()) {
      co_return error::Unknown("{}; and whether it was applied is not known: {}", MessageOf(why),
                               MessageOf(found.status()));
    }
    if (found->kvs_size() == 0 || found->kvs(0).mod_revision() <= before) {
      co_return why;
    }
    const int64_t put_at = found->kvs(0).mod_revision();
    if (found->kvs(0).value() == mark) {
      co_return CommitResult{.applied = true, .version = static_cast<uint64_t>(put_at)};
    }
    revision = put_at - 1;
  }
  co_return error::Unknown("{}; and {} transactions after it hide whether it was applied",
                           MessageOf(why), kHistoryMax);
}

Task<absl::StatusOr<std::unique_ptr<EtcdStore>>> EtcdStore::Open(Loop* loop, Random* random,
                                                                 Options options) {
  GEMEL_CHECK(options.page_keys > 0);
  EtcdClient::Options client_options;
  client_options.members = options.address.members;
  client_options.tls = options.tls;
  client_options.probe_key = options.address.Prefix() + "v";
  client_options.name = fmt::format("the placement store '{}' in etcd at {}", options.address.name,
                                    absl::StrJoin(options.address.members, ","));
  client_options.attempt_timeout = options.attempt_timeout;
  client_options.operation_timeout = options.operation_timeout;
  GEMEL_CO_ASSIGN_OR_RETURN(const std::shared_ptr<EtcdClient> client,
                            EtcdClient::Create(loop, std::move(client_options)));
  auto core = std::make_shared<Core>(client, options, WriterId::Draw(random));
  const absl::Status begun = co_await Core::Begin(core);
  GEMEL_CO_RETURN_IF_ERROR(begun);
  const absl::StatusOr<std::string> version = co_await EtcdClient::Version(client);
  GEMEL_CO_RETURN_IF_ERROR(version.status());
  co_return std::unique_ptr<EtcdStore>(new EtcdStore(core, *version));
}

EtcdStore::~EtcdStore() { core_->client->Close(); }

Task<absl::StatusOr<std::optional<Versioned>>> EtcdStore::Get(std::string key) {
  return Core::Get(core_, std::move(key));
}

Task<absl::StatusOr<std::vector<KeyValue>>> EtcdStore::List(std::string prefix) {
  return Core::List(core_, std::move(prefix));
}

Task<absl::StatusOr<CommitResult>> EtcdStore::Commit(Txn txn) {
  return Core::Commit(core_, std::move(txn));
}

std::string EtcdStore::name() const { return core_->client->name(); }

}  // namespace gemel
