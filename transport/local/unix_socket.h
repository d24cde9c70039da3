// SPDX-License-Identifier: Apache-2.0
//
// The `local` fabric: connections over a unix stream socket, between processes of one user (or
// root) on one host. Both sides ask the kernel who the other is before a byte is read.
//
// Thread safety: the loop's thread.
// Errors: InvalidArgument for a path that is empty or longer than kUnixPathBytesMax; Unavailable
// when nobody listens; AlreadyExists when a live server, another start of one, or something that is
// not a socket has the path; PermissionDenied when the other side is another user.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "common/epoll_loop.h"
#include "common/events.h"
#include "transport/net.h"

namespace gemel {

constexpr size_t kUnixPathBytesMax = 107;  // sun_path less its final zero

// The same user, or root.
absl::Status CheckPeerUser(uid_t peer, uid_t own, std::string_view address);

Task<absl::StatusOr<std::unique_ptr<Connection>>> ConnectUnix(EpollLoop* loop, std::string path,
                                                              TimePoint deadline);

// A socket file that no server answers on is stale and replaced. The file has mode 0600 and is
// removed when the listener stops, if it is still the listener's own.
absl::StatusOr<std::unique_ptr<Listener>> ListenUnix(EpollLoop* loop, EventSink* events,
                                                     const std::string& path,
                                                     Net::AcceptCallback accept);

}  // namespace gemel
