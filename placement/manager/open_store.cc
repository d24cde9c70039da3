// SPDX-License-Identifier: Apache-2.0
#include "placement/manager/open_store.h"

#include <spdlog/spdlog.h>

#include <fstream>
#include <iterator>
#include <optional>
#include <utility>

#include "common/check.h"
#include "common/daemon.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "placement/store/etcd_errors.h"
#include "placement/store/etcd_store.h"
#include "placement/store/rocksdb_store.h"

namespace gemel {
namespace {

absl::StatusOr<std::string> ReadPem(const std::string& flag, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file.good() && !file.eof()) {
    return error::NotFound("{} {}: the file cannot be read", flag, path);
  }
  if (text.find("-----BEGIN ") == std::string::npos) {
    return error::InvalidArgument("{} {}: there is no PEM text in it", flag, path);
  }
  return text;
}

absl::StatusOr<std::optional<GrpcTls>> ReadTls(const StoreFlags& flags) {
  std::optional<GrpcTls> tls;
  if (flags.certificate_file.empty() != flags.key_file.empty()) {
    return error::InvalidArgument("--etcd-cert and --etcd-key go together");
  }
  if (flags.authorities_file.empty()) {
    if (!flags.certificate_file.empty()) {
      return error::InvalidArgument(
          "--etcd-cert needs --etcd-cacert: etcd must show who it is too");
    }
    return tls;
  }
  tls.emplace();
  GEMEL_ASSIGN_OR_RETURN(tls->authorities, ReadPem("--etcd-cacert", flags.authorities_file));
  if (!flags.certificate_file.empty()) {
    GEMEL_ASSIGN_OR_RETURN(tls->certificate, ReadPem("--etcd-cert", flags.certificate_file));
    GEMEL_ASSIGN_OR_RETURN(tls->key, ReadPem("--etcd-key", flags.key_file));
  }
  return tls;
}

absl::StatusOr<std::unique_ptr<MetaStore>> OpenEtcd(EpollLoop* loop, Random* random,
                                                    const StoreFlags& flags) {
  EtcdStore::Options options;
  GEMEL_ASSIGN_OR_RETURN(options.address, ParseEtcdAddress(flags.address));
  GEMEL_ASSIGN_OR_RETURN(options.tls, ReadTls(flags));
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<EtcdStore> store,
                         RunToEnd(loop, EtcdStore::Open(loop, random, std::move(options))));
  const std::string warning = EtcdVersionWarning(store->etcd_version());
  if (!warning.empty()) {
    spdlog::warn("{}: {}", store->name(), warning);
  }
  return store;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetaStore>> OpenStore(EpollLoop* loop, Random* random,
                                                     const StoreFlags& flags) {
  GEMEL_CHECK(loop != nullptr && random != nullptr);
  if (flags.dir.empty() == flags.address.empty()) {
    return error::InvalidArgument("give either --dir or --store etcd://HOST:PORT,…");
  }
  if (!flags.address.empty()) {
    return OpenEtcd(loop, random, flags);
  }
  RocksdbStore::Options options;
  options.dir = flags.dir;
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<RocksdbStore> store,
                         OpenWhenFree(loop, [&] { return RocksdbStore::Open(loop, options); }));
  return store;
}

}  // namespace gemel
