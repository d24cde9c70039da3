// SPDX-License-Identifier: Apache-2.0
//
// Traps: while armed, a call that a simulated cluster must not make (a clock, entropy, a thread, a
// socket, a file) ends the process with the name of the call. The calls are interposed by the
// linker: the program that links traps.cc has them all. Not in builds with a sanitizer, whose own
// interceptors stand there.
//
// Thread safety: one thread.
#pragma once

namespace gemel::sim {

void ArmTraps();
void DisarmTraps();
// False in builds that have no traps.
bool HasTraps();

}  // namespace gemel::sim
