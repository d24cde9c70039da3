// SPDX-License-Identifier: Apache-2.0
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <tuple>
#include <vector>

#include "native.h"

namespace gemel::python {
namespace {

// (shard, offset, nbytes, destination address)
using Piece = std::tuple<uint32_t, uint64_t, uint64_t, uintptr_t>;

class Restore {
 public:
  explicit Restore(gemel_restore* handle) : handle_(handle) {}

  Restore(const Restore&) = delete;
  Restore& operator=(const Restore&) = delete;

  ~Restore() { gemel_restore_free(handle_); }

  gemel_restore* handle() const { return handle_; }

  gemel_snapshot_info Info() const {
    gemel_snapshot_info info{};
    info.struct_bytes = sizeof(info);
    gemel_restore_info(handle_, &info);
    return info;
  }

  nb::list Shards() const {
    nb::list shards;
    const uint32_t count = Info().world_size;
    for (uint32_t rank = 0; rank < count; ++rank) {
      gemel_shard_info info{};
      info.struct_bytes = sizeof(info);
      RaiseUnlessOk(gemel_restore_shard(handle_, rank, &info));
      nb::dict shard;
      shard["rank"] = rank;
      shard["bytes"] = info.bytes;
      shard["layout_bytes"] = info.layout_bytes;
      shard["root"] = HexOf(info.root);
      shards.append(shard);
    }
    return shards;
  }

  // Before a buffer of that size is made: the size comes from the caller.
  void CheckSize(uint32_t shard, uint64_t nbytes) const {
    gemel_shard_info info{};
    info.struct_bytes = sizeof(info);
    RaiseUnlessOk(gemel_restore_shard(handle_, shard, &info));
    if (nbytes > info.bytes) {
      RaiseInvalid(std::to_string(nbytes) + " bytes of shard " + std::to_string(shard) +
                   ", which has " + std::to_string(info.bytes));
    }
  }

  nb::bytes Read(uint32_t shard, uint64_t offset, uint64_t nbytes) {
    CheckSize(shard, nbytes);
    PyObject* made = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(nbytes));
    if (made == nullptr) {
      nb::raise_python_error();
    }
    nb::bytes bytes = nb::steal<nb::bytes>(made);
    const gemel_range range{shard, offset, nbytes, PyBytes_AS_STRING(made)};
    Run([&]() { return gemel_restore_read(handle_, &range, 1); });
    return bytes;
  }

  void Fetch(const std::vector<Piece>& pieces) {
    std::vector<gemel_range> ranges;
    ranges.reserve(pieces.size());
    for (const auto& [shard, offset, nbytes, destination] : pieces) {
      // NOLINTNEXTLINE(performance-no-int-to-ptr): tensors tell where they lie as a number
      ranges.push_back({shard, offset, nbytes, reinterpret_cast<void*>(destination)});
    }
    Run([&]() { return gemel_restore_read(handle_, ranges.data(), ranges.size()); });
  }

  nb::dict Wait(double timeout_s) {
    gemel_restore_end end{};
    end.struct_bytes = sizeof(end);
    const int64_t timeout_ms = MillisecondsOf(timeout_s);
    Run([&]() { return gemel_restore_wait(handle_, timeout_ms, &end); });
    nb::dict phases;
    phases["begin"] = end.begin_ms;
    phases["fetch"] = end.fetch_ms;
    phases["copy"] = end.copy_ms;
    phases["agree"] = end.agree_ms;
    nb::dict sources;
    sources["local_bytes"] = end.local_bytes;
    sources["peer_bytes"] = end.peer_bytes;
    nb::list lost;
    for (size_t i = 0; i < end.lost_count; ++i) {
      lost.append(nb::str(gemel_restore_lost(handle_, i)));
    }
    nb::dict told;
    told["outcome"] = end.outcome == GEMEL_RESTORE_VERIFIED ? "VERIFIED"
                      : end.outcome == GEMEL_RESTORE_MOVED  ? "MOVED"
                                                            : "READ_AGAIN";
    told["phases"] = phases;
    told["sources"] = sources;
    told["lost"] = lost;
    return told;
  }

 private:
  gemel_restore* const handle_;
};

}  // namespace

nb::object MakeRestore(gemel_restore* handle) {
  return nb::cast(new Restore(handle), nb::rv_policy::take_ownership);
}

void BindRestore(nb::module_& module) {
  auto restore =
      nb::class_<Restore>(module, "Restore", "One rank's part in bringing back a snapshot.");
  restore.def_prop_ro("name", [](Restore& r) { return r.Info().name; });
  restore.def_prop_ro("sequence", [](Restore& r) { return r.Info().sequence; });
  restore.def_prop_ro("epoch", [](Restore& r) { return EpochTuple(r.Info().epoch); });
  restore.def_prop_ro("world_size", [](Restore& r) { return r.Info().world_size; });
  restore.def_prop_ro("shards", &Restore::Shards);
  restore.def("read", &Restore::Read, nb::arg("shard"), nb::arg("offset"), nb::arg("nbytes"),
              "Verified bytes of a shard.");
  restore.def(
      "fetch", &Restore::Fetch, nb::arg("pieces"),
      "Verified bytes into host memory: (shard, offset, nbytes, address) each, all at once.");
  restore.def(
      "report",
      [](Restore& r, bool ok, const std::string& why) {
        Run([&]() { return gemel_restore_report(r.handle(), ok ? 1 : 0, why.c_str()); });
      },
      nb::arg("ok"), nb::arg("why") = "", "Says how it went for this rank.");
  restore.def("wait", &Restore::Wait, nb::arg("timeout_s"),
              "outcome (VERIFIED, MOVED or READ_AGAIN), phases in ms, sources, lost.");
}

}  // namespace gemel::python
