// SPDX-License-Identifier: Apache-2.0
#include "client/library/abi_client.h"

#include <string_view>
#include <tuple>

#include "client/library/abi_status.h"

namespace gemel {
namespace {

constexpr std::string_view kUnix = "unix://";

// Slabs travel as descriptors, so a client's server is behind a unix socket.
absl::StatusOr<std::string> AddressOf(std::string_view given) {
  if (given.starts_with('/')) {
    return std::string(kUnix) + std::string(given);
  }
  if (given.starts_with(kUnix) && given.size() > kUnix.size()) {
    return std::string(given);
  }
  return error::InvalidArgument(
      "'{}' is not the address of a server on this host: it is unix:///PATH of its socket, as "
      "`gemel up` prints it; placement's address is for the command line only",
      given);
}

Task<absl::StatusOr<ClientHelloReply>> Hello(ClientCore* core, TimePoint deadline) {
  GEMEL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Link> link, co_await core->Connected(deadline));
  co_return link->server();
}

absl::StatusOr<std::unique_ptr<gemel_client>> Connect(const gemel_client_options& given) {
  GEMEL_RETURN_IF_ERROR(RequireText(given.address, "the server's address"));
  Runtime::Options options;
  GEMEL_ASSIGN_OR_RETURN(options.address, AddressOf(given.address));
  options.timeout = ClampTimeout(given.timeout_ms);
  if (given.interrupted != nullptr) {
    options.interrupted = [ask = given.interrupted, context = given.context]() {
      return ask(context) != 0;
    };
  }
  GEMEL_ASSIGN_OR_RETURN(std::shared_ptr<Runtime> runtime, Runtime::Start(std::move(options)));
  auto hello = [raw = runtime.get()]() {
    return Hello(raw->core(), Add(raw->loop()->Now(), raw->timeout()));
  };
  absl::StatusOr<ClientHelloReply> server =
      runtime->Call<ClientHelloReply>(hello, runtime->timeout(), nullptr);
  GEMEL_RETURN_IF_ERROR(server.status());
  auto client = std::make_unique<gemel_client>();
  client->runtime = std::move(runtime);
  client->cluster_id = server->cluster.ToHex();
  client->server_id = server->server.ToHex();
  return client;
}

absl::StatusOr<EpochId> Acquire(gemel_client* client, const char* job, const uint8_t* token) {
  GEMEL_RETURN_IF_ERROR(RequireText(job, "the job's name"));
  const std::string_view raw(reinterpret_cast<const char*>(token), 16);
  GEMEL_ASSIGN_OR_RETURN(const EpochToken epoch_token, EpochToken::FromBytes(raw));
  if (epoch_token.IsZero()) {
    return error::InvalidArgument("the token of job {} is all zeros: draw one", job);
  }
  Runtime* runtime = client->runtime.get();
  auto acquire = [runtime, name = std::string(job), epoch_token]() {
    return runtime->core()->AcquireEpoch(name, epoch_token,
                                         Add(runtime->loop()->Now(), runtime->timeout()));
  };
  return runtime->Call<EpochId>(std::move(acquire), runtime->timeout(), nullptr);
}

}  // namespace
}  // namespace gemel

gemel_status gemel_client_connect(const gemel_client_options* options, gemel_client** client) {
  *client = nullptr;
  absl::Status sized = gemel::RequireSize(options->struct_bytes, sizeof(gemel_client_options),
                                          "gemel_client_options");
  if (!sized.ok()) {
    return gemel::ToC(sized);
  }
  absl::StatusOr<std::unique_ptr<gemel_client>> made = gemel::Connect(*options);
  if (made.ok()) {
    *client = made->release();
  }
  return gemel::ToC(made.status());
}

const char* gemel_client_cluster_id(const gemel_client* client) {
  return client->cluster_id.c_str();
}

const char* gemel_client_server_id(const gemel_client* client) { return client->server_id.c_str(); }

const char* gemel_client_address(const gemel_client* client) {
  return client->runtime->address().c_str();
}

void gemel_client_close(gemel_client* client) { client->runtime->Close(); }

void gemel_client_free(gemel_client* client) {
  if (client != nullptr) {
    client->runtime->Close();
    delete client;
  }
}

gemel_status gemel_epoch_acquire(gemel_client* client, const char* job, const uint8_t token[16],
                                 gemel_epoch* epoch) {
  absl::StatusOr<gemel::EpochId> acquired = gemel::Acquire(client, job, token);
  if (acquired.ok()) {
    *epoch = gemel::ToC(*acquired);
  }
  return gemel::ToC(acquired.status());
}
