// SPDX-License-Identifier: Apache-2.0
#include "transport/verbs/verbs_device.h"

#include <arpa/inet.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"
#include "transport/outcome.h"

namespace gemel {
namespace {

constexpr uint32_t kGidsMax = 1024;

// ::ffff:a.b.c.d, as RoCE names a device by an IPv4 address.
bool IsIpv4(const ibv_gid& gid) {
  return gid.global.subnet_prefix == 0 &&
         ntohl(static_cast<uint32_t>(gid.global.interface_id)) == 0xFFFF;
}

// RoCE 2 goes through routers, and its source port spreads queue pairs over paths.
int Preference(const ibv_gid_entry& gid) {
  if (gid.gid_type != IBV_GID_TYPE_ROCE_V2) {
    return 1;
  }
  return IsIpv4(gid.gid) ? 3 : 2;
}

std::string GidName(const ibv_gid& gid) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const bool v4 = IsIpv4(gid);
  GEMEL_CHECK(inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? &gid.raw[12] : gid.raw, text.data(),
                        text.size()) != nullptr);
  return text.data();
}

}  // namespace

void CheckFreed(int error, const char* call) {
  GEMEL_CHECK(error == 0 || error == EIO) << call << ": " << error << "; is something of it left?";
}

VerbsRegion::~VerbsRegion() { CheckFreed(calls_->dereg_mr(mr_), "ibv_dereg_mr"); }

bool VerbsRegion::Holds(ByteSpan bytes) const {
  const auto* begin = static_cast<const std::byte*>(mr_->addr);
  const std::less_equal<> at_most;
  return at_most(begin, bytes.data()) && at_most(bytes.data() + bytes.size(), begin + mr_->length);
}

VerbsWindow::~VerbsWindow() { Free(); }

void VerbsWindow::Free() {
  if (window_ != nullptr) {
    CheckFreed(ibv_dealloc_mw(std::exchange(window_, nullptr)), "ibv_dealloc_mw");
  }
}

absl::StatusOr<std::unique_ptr<VerbsDevice>> VerbsDevice::Find(const VerbsCalls* calls,
                                                               const std::string& name,
                                                               const Wanted& wanted) {
  int count = 0;
  const auto free_list = [calls](ibv_device** list) { calls->free_device_list(list); };
  const std::unique_ptr<ibv_device*, decltype(free_list)> list(calls->get_device_list(&count),
                                                               free_list);
  if (list == nullptr || count == 0) {
    return error::Unavailable("there is no RDMA device: load its driver and ib_uverbs");
  }
  std::string names;
  absl::Status last;
  for (int i = 0; i < count; ++i) {
    const std::string found = calls->get_device_name(list.get()[i]);
    names += (i == 0 ? "" : ", ") + found;
    if (!name.empty() && found != name) {
      continue;
    }
    ibv_context* context = calls->open_device(list.get()[i]);
    if (context == nullptr) {
      last = StatusOfErrno(errno, "opening the RDMA device " + found);
      continue;
    }
    std::unique_ptr<VerbsDevice> device(new VerbsDevice(calls, context));
    const absl::Status status = device->FindPort(wanted);
    if (status.ok()) {
      return device;
    }
    last = status.code() == absl::StatusCode::kNotFound ? last : status;
  }
  if (!last.ok()) {
    return last;
  }
  return wanted.has_value()
             ? error::NotFound(
                   "no RDMA device has the address {}; there are {}: give the address "
                   "of the network device that one of them is on",
                   GidName(*wanted), names)
             : error::NotFound("there is no RDMA device {}; there are {}", name, names);
}

absl::StatusOr<std::unique_ptr<VerbsDevice>> VerbsDevice::Open(const VerbsCalls* calls,
                                                               const std::string& name) {
  return Find(calls, name, std::nullopt);
}

absl::StatusOr<std::unique_ptr<VerbsDevice>> VerbsDevice::OpenAt(const VerbsCalls* calls,
                                                                 const ibv_gid& address) {
  return Find(calls, "", address);
}

VerbsDevice::~VerbsDevice() {
  memory_.clear();
  if (domain_ != nullptr) {
    CheckFreed(calls_->dealloc_pd(domain_), "ibv_dealloc_pd");
  }
  calls_->close_device(context_);
}

std::string VerbsDevice::name() const { return calls_->get_device_name(context_->device); }

absl::Status VerbsDevice::FindPort(const Wanted& wanted) {
  ibv_device_attr facts{};
  if (const int error = calls_->query_device(context_, &facts); error != 0) {
    return StatusOfErrno(error, "asking the RDMA device " + name());
  }
  if ((facts.device_cap_flags & IBV_DEVICE_MEM_WINDOW_TYPE_2B) == 0) {
    return error::Unimplemented("{} has no memory windows of type 2B, which are the fence", name());
  }
  receives_max_ = facts.max_srq > 0 ? static_cast<uint32_t>(facts.max_srq_wr) : 0;
  absl::Status last = error::Unavailable(
      "no port of {} is active: is its cable in, its network device up?", name());
  for (uint8_t port = 1; port <= facts.phys_port_cnt; ++port) {
    ibv_port_attr found{};
    if (calls_->query_port(context_, port, reinterpret_cast<_compat_ibv_port_attr*>(&found)) != 0 ||
        found.state != IBV_PORT_ACTIVE) {
      continue;
    }
    port_ = port;
    mtu_ = found.active_mtu;
    lid_ = found.lid;
    if (absl::Status gid = FindGid(static_cast<uint32_t>(found.gid_tbl_len), wanted); !gid.ok()) {
      last = gid;
      continue;
    }
    domain_ = calls_->alloc_pd(context_);
    return domain_ != nullptr ? absl::OkStatus()
                              : StatusOfErrno(errno, "a protection domain of " + name());
  }
  return last;
}

absl::Status VerbsDevice::FindGid(uint32_t count, const Wanted& wanted) {
  int best = 0;
  for (uint32_t i = 0; i < count && i < kGidsMax; ++i) {
    ibv_gid_entry found{};
    if (calls_->query_gid_entry(context_, port_, i, &found, 0, sizeof(found)) == 0 &&
        Preference(found) > best &&
        (!wanted.has_value() || std::memcmp(&found.gid, &*wanted, sizeof(ibv_gid)) == 0)) {
      best = Preference(found);
      gid_ = found;
    }
  }
  if (best == 0 && wanted.has_value()) {
    return error::NotFound("port {} of {} has another address", port_, name());
  }
  return best > 0 ? absl::OkStatus()
                  : error::Unavailable("port {} of {} has no address: give its network device one",
                                       port_, name());
}

absl::StatusOr<std::unique_ptr<VerbsRegion>> VerbsDevice::Register(MutableByteSpan bytes) {
  GEMEL_CHECK(!bytes.empty());
  ibv_mr* mr = calls_->reg_mr(domain_, bytes.data(), bytes.size(),
                              IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_MW_BIND);
  if (mr != nullptr) {
    return std::make_unique<VerbsRegion>(calls_, mr);
  }
  const int error = errno;
  if (error == ENOMEM || error == EPERM || error == EAGAIN) {
    return error::ResourceExhausted(
        "{} cannot pin {} bytes: raise the limit of locked memory (ulimit -l, LimitMEMLOCK=)",
        name(), bytes.size());
  }
  return StatusOfErrno(error, fmt::format("registering {} bytes with {}", bytes.size(), name()));
}

absl::Status VerbsDevice::AddMemory(MutableByteSpan memory) {
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<VerbsRegion> region, Register(memory));
  const bool added =
      memory_.emplace(reinterpret_cast<uintptr_t>(memory.data()), std::move(region)).second;
  GEMEL_CHECK(added) << "memory that was added before";
  return absl::OkStatus();
}

const VerbsRegion* VerbsDevice::RegionOf(ByteSpan bytes) const {
  const auto after = memory_.upper_bound(reinterpret_cast<uintptr_t>(bytes.data()));
  if (after == memory_.begin() || !std::prev(after)->second->Holds(bytes)) {
    return nullptr;
  }
  return std::prev(after)->second.get();
}

absl::StatusOr<std::unique_ptr<VerbsWindow>> VerbsDevice::MakeWindow() {
  ibv_mw* window = ibv_alloc_mw(domain_, IBV_MW_TYPE_2);
  if (window == nullptr) {
    return StatusOfErrno(errno, "a memory window of " + name());
  }
  return std::make_unique<VerbsWindow>(window);
}

}  // namespace gemel
