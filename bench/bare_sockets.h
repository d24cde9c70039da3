// SPDX-License-Identifier: Apache-2.0
//
// Blocking sockets of the yardsticks: what a program does that has nothing but them. All of them
// are tuned as the fabric tunes its own.
//
// Thread safety: none of them shares anything. Errors: a bench that cannot measure ends by
// GEMEL_CHECK.
#pragma once

#include <cstddef>

namespace gemel {

// No delay, and the congestion control that the fabric asks for.
void TuneBare(int fd);

void WriteAll(int fd, const void* data, size_t size);

// False when the other side has ended first.
bool ReadAllOrEnd(int fd, void* data, size_t size);

void ReadAll(int fd, void* data, size_t size);

}  // namespace gemel
