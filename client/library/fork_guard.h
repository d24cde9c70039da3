// SPDX-License-Identifier: Apache-2.0
//
// ForkGuard: what fork() means for the clients of this process (DESIGN amendment 5). Before a fork
// every client's loop is parked between two of its steps, so that no mapping is inherited between
// its mmap and its MADV_DONTFORK; the parent's loops go on afterwards. In the child every client is
// marked, and descriptors of shared memory that had arrived but were not yet mapped and closed are
// closed.
//
// Thread safety: Add() and Remove() any thread; the rest runs inside fork(). A fork waits for the
// present step of each loop, at most a slab's mapping.
// Ownership: a Forkable removes itself before it goes.
#pragma once

#include <condition_variable>

#include "common/mutex.h"

namespace gemel {

class Forkable {
 public:
  virtual ~Forkable() = default;
  // In the parent, on the forking thread: stand still until Resume().
  virtual void Park() = 0;
  virtual void Resume() = 0;
  // In the child, which has only the forking thread.
  virtual void Forked() = 0;
};

class ForkGuard {
 public:
  static void Add(Forkable* one);
  static void Remove(Forkable* one);
};

// Where a loop stands still while another thread forks.
class Parking {
 public:
  // On the loop: returns after Leave().
  void Stay();
  // On the forking thread: returns when the loop is in Stay().
  void AwaitParked();
  void Leave();

 private:
  Mutex mutex_;
  std::condition_variable_any changed_;
  bool parked_ GEMEL_GUARDED_BY(mutex_) = false;
};

}  // namespace gemel
