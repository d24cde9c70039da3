// SPDX-License-Identifier: Apache-2.0
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <optional>
#include <string>

#include "native.h"

namespace gemel::python {
namespace {

class Client {
 public:
  Client(const std::string& address, double timeout_s) {
    gemel_client_options options{};
    options.struct_bytes = sizeof(options);
    options.address = address.c_str();
    options.timeout_ms = MillisecondsOf(timeout_s);
    options.interrupted = Interrupted;
    Run([&]() { return gemel_client_connect(&options, &handle_); });
  }

  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  ~Client() { gemel_client_free(handle_); }

  gemel_client* handle() const { return handle_; }

  nb::tuple AcquireEpoch(const std::string& job, nb::bytes token) {
    uint8_t raw[16];
    CopySixteen(token, "the epoch's token", raw);
    gemel_epoch epoch{};
    Run([&]() { return gemel_epoch_acquire(handle_, job.c_str(), raw, &epoch); });
    return EpochTuple(epoch);
  }

  nb::object BeginRestore(const std::string& job, nb::handle epoch,
                          std::pair<uint32_t, uint32_t> place, double timeout_s) {
    gemel_restore_options options{};
    options.struct_bytes = sizeof(options);
    options.job = job.c_str();
    options.epoch = EpochOf(epoch);
    options.rank = place.first;
    options.world_size = place.second;
    options.timeout_ms = MillisecondsOf(timeout_s);
    gemel_restore* restore = nullptr;
    Run([&]() { return gemel_restore_begin(handle_, &options, &restore); });
    return restore != nullptr ? MakeRestore(restore) : nb::none();
  }

  nb::object BeginRead(const std::string& job, const std::optional<std::string>& name,
                       double timeout_s) {
    gemel_read_options options{};
    options.struct_bytes = sizeof(options);
    options.job = job.c_str();
    options.name = name.has_value() ? name->c_str() : nullptr;
    options.timeout_ms = MillisecondsOf(timeout_s);
    gemel_restore* restore = nullptr;
    Run([&]() { return gemel_read_begin(handle_, &options, &restore); });
    return MakeRestore(restore);
  }

  nb::object OpenStage(uint64_t shard_bytes, uint64_t layout_bytes, double timeout_s) {
    gemel_stage_options options{};
    options.struct_bytes = sizeof(options);
    options.shard_bytes = shard_bytes;
    options.layout_bytes = layout_bytes;
    options.timeout_ms = MillisecondsOf(timeout_s);
    gemel_stage* stage = nullptr;
    Run([&]() { return gemel_stage_open(handle_, &options, &stage); });
    return MakeStage(stage);
  }

  nb::list ListSnapshots(const std::string& job) {
    gemel_listing* made = nullptr;
    Run([&]() { return gemel_list(handle_, job.c_str(), &made); });
    const std::unique_ptr<gemel_listing, decltype(&gemel_listing_free)> listing(made,
                                                                                gemel_listing_free);
    nb::list told;
    for (size_t i = 0; i < gemel_listing_count(listing.get()); ++i) {
      gemel_listed entry{};
      entry.struct_bytes = sizeof(entry);
      RaiseUnlessOk(gemel_listing_entry(listing.get(), i, &entry));
      told.append(Told(entry));
    }
    return told;
  }

  void RemoveSnapshot(const std::string& job, const std::string& name) {
    Run([&]() { return gemel_remove(handle_, job.c_str(), name.c_str()); });
  }

 private:
  static nb::dict Told(const gemel_listed& entry) {
    nb::dict told;
    told["name"] = entry.name;
    told["epoch"] = EpochTuple(entry.epoch);
    told["sequence"] = entry.sequence;
    told["attempt"] = entry.attempt;
    told["world_size"] = entry.world_size;
    told["bytes"] = entry.bytes;
    told["committed_unix_s"] = entry.committed_unix_s;
    told["persisted"] = entry.persisted != 0;
    told["in_memory"] = entry.in_memory != 0;
    return told;
  }

  gemel_client* handle_ = nullptr;
};

int OnBusyOf(const std::string& word) {
  if (word != "wait" && word != "skip") {
    RaiseInvalid("on_busy='" + word + "': must be 'wait' or 'skip'");
  }
  return word == "skip" ? GEMEL_ON_BUSY_SKIP : GEMEL_ON_BUSY_WAIT;
}

int StrategyOf(const std::string& word) {
  if (word != "group" && word != "ring") {
    RaiseInvalid("strategy='" + word + "': must be 'group' or 'ring'");
  }
  return word == "ring" ? GEMEL_STRATEGY_RING : GEMEL_STRATEGY_GROUP;
}

nb::object Open(Client& client, gemel_snapshot_options options) {
  options.struct_bytes = sizeof(options);
  gemel_writer* writer = nullptr;
  Run([&]() { return gemel_snapshot_open(client.handle(), &options, &writer); });
  return writer != nullptr ? MakeWriter(writer, options.name) : nb::none();
}

// What is asked about snapshots that are there, and memory for one that has no name yet.
void BindWithoutSave(nb::class_<Client>& client) {
  client.def(
      "begin_restore",
      [](Client& c, const std::string& job, nb::handle epoch, uint32_t rank, uint32_t world_size,
         double timeout_s) { return c.BeginRestore(job, epoch, {rank, world_size}, timeout_s); },
      nb::arg("job"), nb::arg("epoch"), nb::arg("rank"), nb::arg("world_size"),
      nb::arg("timeout_s"),
      "The Restore that all ranks share, or None when nothing was ever committed.");
  client.def("begin_read", &Client::BeginRead, nb::arg("job"), nb::arg("name") = nb::none(),
             nb::arg("timeout_s") = 300.0,
             "A Restore of one committed snapshot (None: the newest) for read() and fetch() alone, "
             "without an epoch. NotFound when it is not there.");
  client.def("open_stage", &Client::OpenStage, nb::arg("shard_bytes"), nb::arg("layout_bytes"),
             nb::arg("timeout_s"),
             "A Stage: memory of this host for a shard that has no name yet.");
  client.def("list_snapshots", &Client::ListSnapshots, nb::arg("job"),
             "What is committed, by rising order: one dict each.");
  client.def("remove_snapshot", &Client::RemoveSnapshot, nb::arg("job"), nb::arg("name"),
             "Removes every committed snapshot of that name, in memory and on disk.");
}

}  // namespace

void BindClient(nb::module_& module) {
  auto client = nb::class_<Client>(module, "Client", "One connection to the server of this host.");
  client.def(nb::init<const std::string&, double>(), nb::arg("address"),
             nb::arg("timeout_s") = 30.0);
  client.def_prop_ro("cluster_id", [](Client& c) { return gemel_client_cluster_id(c.handle()); });
  client.def_prop_ro("server_id", [](Client& c) { return gemel_client_server_id(c.handle()); });
  client.def_prop_ro("address", [](Client& c) { return gemel_client_address(c.handle()); });
  client.def(
      "close", [](Client& c) { gemel_client_close(c.handle()); },
      "Ends the connection; calls that wait fail. Idempotent.");
  client.def("acquire_epoch", &Client::AcquireEpoch, nb::arg("job"), nb::arg("token"),
             "(generation, counter) of the job's incarnation that shares these 16 bytes.");
  client.def(
      "open_snapshot",
      [](Client& c, const std::string& job, nb::handle epoch, const std::string& name,
         uint32_t attempt, uint32_t rank, uint32_t world_size, uint64_t shard_bytes,
         uint64_t layout_bytes, nb::bytes layout_hash, uint32_t copies, uint32_t min_copies,
         uint32_t keep_latest, const std::string& on_busy, double timeout_s, uint32_t persist_every,
         uint32_t persist_interval_s, uint32_t persist_copies, uint32_t persist_keep,
         const std::optional<nb::bytes>& stage, const std::string& strategy) {
        gemel_snapshot_options options{};
        options.job = job.c_str();
        options.epoch = EpochOf(epoch);
        options.name = name.c_str();
        options.attempt = attempt;
        options.rank = rank;
        options.world_size = world_size;
        options.shard_bytes = shard_bytes;
        options.layout_bytes = layout_bytes;
        CopySixteen(layout_hash, "layout_hash", options.layout_hash);
        options.copies = copies;
        options.min_copies = min_copies;
        options.keep_latest = keep_latest;
        options.on_busy = OnBusyOf(on_busy);
        options.strategy = StrategyOf(strategy);
        options.timeout_ms = MillisecondsOf(timeout_s);
        options.persist_every = persist_every;
        options.persist_interval_s = persist_interval_s;
        options.persist_copies = persist_copies;
        options.persist_keep = persist_keep;
        uint8_t staged[16];
        if (stage.has_value()) {
          CopySixteen(*stage, "stage", staged);
          options.stage = staged;
        }
        return Open(c, options);
      },
      nb::arg("job"), nb::arg("epoch"), nb::arg("name"), nb::arg("attempt"), nb::arg("rank"),
      nb::arg("world_size"), nb::arg("shard_bytes"), nb::arg("layout_bytes"),
      nb::arg("layout_hash"), nb::arg("copies"), nb::arg("min_copies"), nb::arg("keep_latest"),
      nb::arg("on_busy"), nb::arg("timeout_s"), nb::arg("persist_every") = 0,
      nb::arg("persist_interval_s") = 0, nb::arg("persist_copies") = 0, nb::arg("persist_keep") = 0,
      nb::arg("stage") = nb::none(), nb::arg("strategy") = "group",
      "A Writer of this rank's shard, or None when the cluster skips this snapshot.");
  BindWithoutSave(client);
}

}  // namespace gemel::python
