// SPDX-License-Identifier: Apache-2.0
#include <nanobind/stl/string.h>

#include <string>
#include <utility>

#include "native.h"

namespace gemel::python {
namespace {

class Writer {
 public:
  Writer(gemel_writer* handle, std::string name) : handle_(handle), name_(std::move(name)) {}

  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  ~Writer() { gemel_writer_free(handle_); }

  gemel_writer* handle() const { return handle_; }

  void WriteBytes(uint64_t offset, const void* data, size_t size) {
    Run([&]() { return gemel_writer_write(handle_, offset, data, size); });
  }

  void Write(uint64_t offset, nb::handle buffer) {
    WithBytesOf(buffer, [&](const void* data, size_t size) {
      return gemel_writer_write(handle_, offset, data, size);
    });
  }

  void WriteCuda(uint64_t offset, const void* data, size_t size, void* stream) {
    Run([&]() { return gemel_writer_write_cuda(handle_, offset, data, size, stream); });
  }

  nb::dict Wait(double timeout_s) {
    gemel_commit commit{};
    commit.struct_bytes = sizeof(commit);
    const int64_t timeout_ms = MillisecondsOf(timeout_s);
    Run([&]() { return gemel_writer_wait(handle_, timeout_ms, &commit); });
    nb::dict told;
    told["sequence"] = commit.sequence;
    told["name"] = name_;
    told["copies"] = commit.copies;
    told["redundancy"] = commit.redundancy_full != 0 ? "FULL" : "LOW";
    told["root"] = HexOf(commit.root);
    told["committed_ms"] = commit.committed_ms;
    return told;
  }

  // Never raises: it is called where another error is on its way, and the cluster gives up the
  // attempts of a client that it has lost.
  void Abort(const std::string& reason) {
    WithoutLock unlocked;
    gemel_status status = gemel_writer_abort(handle_, reason.c_str());
    gemel_status_free(&status);
  }

 private:
  gemel_writer* const handle_;
  const std::string name_;
};

}  // namespace

nb::object MakeWriter(gemel_writer* handle, std::string name) {
  return nb::cast(new Writer(handle, std::move(name)), nb::rv_policy::take_ownership);
}

void BindWriter(nb::module_& module) {
  auto writer = nb::class_<Writer>(module, "Writer", "One rank's shard of one snapshot.");
  writer.def_prop_ro("sequence", [](Writer& w) { return gemel_writer_sequence(w.handle()); });
  writer.def_prop_ro("waited_s",
                     [](Writer& w) { return gemel_writer_waited_ms(w.handle()) / 1e3; });
  DefineWrites(&writer);
  writer.def(
      "seal", [](Writer& w) { Run([&]() { return gemel_writer_seal(w.handle()); }); },
      "Ends writing; the commit follows.");
  writer.def("wait", &Writer::Wait, nb::arg("timeout_s"),
             "What the commit said: sequence, name, copies, redundancy, root, committed_ms.");
  writer.def("abort", &Writer::Abort, nb::arg("reason"), "Gives the attempt up for all ranks.");
}

}  // namespace gemel::python
