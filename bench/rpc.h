// SPDX-License-Identifier: Apache-2.0
//
// What bench_rpc measures: small requests of one process to another, a fixed number of them under
// way. One kind of server and of caller each for bare sockets, for our sessions and for gRPC.
//
// Thread safety: one thread a process, but for gRPC's own.
// Errors: none; a CHECK ends the bench.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "transport/frame.h"

namespace gemel::bench {

constexpr size_t kBodyBytes = 64;                                 // of a request, and of its reply
constexpr size_t kMessageBytes = kFrameHeaderBytes + kBodyBytes;  // of each on a bare socket
constexpr size_t kDepthMax = 256;
constexpr std::chrono::seconds kPatience{30};  // the deadline of a call; bare sockets have none

// The one who asks.
class Caller {
 public:
  virtual ~Caller() = default;
  // Asks `count` times, `depth` at a time, and has all answers at its end. At depth 1 the seconds
  // of each go to `taken`, if it is not null.
  virtual void Ask(size_t count, size_t depth, std::vector<double>* taken) = 0;
};

// A server and, later, its callers, in one process and one thread: for counting instructions.
class Pair {
 public:
  virtual ~Pair() = default;
  virtual Caller* caller() = 0;
};

// A server of its own process: tells its port on `ready`, serves until it is killed.
using Serve = void (*)(int ready);
using MakeCaller = std::unique_ptr<Caller> (*)(int port);
using MakePair = std::unique_ptr<Pair> (*)();

// rpc_echo.cc: bare sockets and epoll. `framed`: each message is one of our frames, made and
// checked at both ends, as any RPC must; else bytes that nobody looks at.
void ServeBare(int ready);
void ServeFramed(int ready);
std::unique_ptr<Caller> CallBare(int port);
std::unique_ptr<Caller> CallFramed(int port);
std::unique_ptr<Pair> PairBare();
std::unique_ptr<Pair> PairFramed();

// rpc_session.cc: a Session over the tcp fabric.
void ServeSession(int ready);
std::unique_ptr<Caller> CallSession(int port);
std::unique_ptr<Pair> PairSession();

// rpc_grpc.cc: unary calls of bytes, by completion queues and by callbacks.
void ServeGrpcQueue(int ready);
void ServeGrpcCallback(int ready);
std::unique_ptr<Caller> CallGrpcQueue(int port);
std::unique_ptr<Caller> CallGrpcCallback(int port);

// The servers' word to whoever started them, and its reading.
void TellPort(int ready, int port);
int HearPort(int ready);

// Seconds from `began` to now.
inline double SecondsSince(std::chrono::steady_clock::time_point began) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

}  // namespace gemel::bench
