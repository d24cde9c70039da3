// SPDX-License-Identifier: Apache-2.0
// Keeps one sentence in two hosts' memory and reads it back: gemel-hello
// unix:///PATH-OF-THE-SERVER'S-SOCKET
#include <cstdio>

#include "gemel/client.h"

int main(int argc, char** argv) {
  auto client = gemel::Client::Connect({.address = argc > 1 ? argv[1] : "/run/gemel/server.sock"});
  if (!client) return std::puts(client.status().message().c_str()), 1;
  gemel::Epoch epoch = *client->AcquireEpoch("hello", gemel::DrawToken());
  const std::string text = "Each ring keeps the other.";
  auto writer = client->OpenSnapshot(
      {.job = "hello", .epoch = epoch, .name = "1", .attempt = 1, .shard_bytes = text.size()});
  if (!writer) return std::puts(writer.status().message().c_str()), 1;
  gemel::SnapshotWriter& shard = **writer;
  bool kept = shard.Write(0, std::as_bytes(std::span(text))).ok() && shard.Seal().ok();
  auto commit = shard.Wait(10'000);
  if (!kept || !commit) return std::puts(commit.status().message().c_str()), 1;
  epoch = *client->AcquireEpoch("hello", gemel::DrawToken());  // as a program started again would
  auto restore = client->BeginRestore({.job = "hello", .epoch = epoch});
  if (!restore) return std::puts(restore.status().message().c_str()), 1;
  std::string back(text.size(), '?');
  bool read = (*restore)->Read(0, 0, std::as_writable_bytes(std::span(back))).ok();
  read = read && (*restore)->Report(read).ok() && (*restore)->Wait(10'000);
  std::printf("%s (%u copies)\n", back.c_str(), commit->copies);
  return read && back == text ? 0 : 1;
}
