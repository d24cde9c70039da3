// SPDX-License-Identifier: Apache-2.0
#include "transport/frame_reader.h"

#include <algorithm>
#include <span>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel {

MutableByteSpan FrameReader::Target() {
  switch (state_) {
    case State::kHeader:
      return MutableByteSpan(header_bytes_).subspan(filled_);
    case State::kBody:
      return std::as_writable_bytes(std::span(frame_.body)).subspan(filled_);
    case State::kPayload:
      break;
    default:
      GEMEL_CHECK(false) << "Place() or Take() comes before the next bytes";
  }
  DropWhenRevoked();
  const size_t left = frame_.header.payload_bytes - filled_;
  GEMEL_CHECK_GT(left, 0U);
  if (!frame_.payload_dropped) {
    return placement_.place.subspan(filled_, left);
  }
  if (scratch_ == nullptr) {
    scratch_ = std::make_unique<std::byte[]>(kScratchBytes);
  }
  return {scratch_.get(), std::min(left, kScratchBytes)};
}

absl::StatusOr<FrameProgress> FrameReader::Advance(size_t bytes) {
  filled_ += bytes;
  if (fenced_) {
    DropWhenRevoked();
  }
  if (fenced_) {
    SetFence(nullptr);
  }
  switch (state_) {
    case State::kHeader:
      GEMEL_CHECK_LE(filled_, kFrameHeaderBytes);
      return filled_ == kFrameHeaderBytes ? OnHeader() : FrameProgress::kMore;
    case State::kBody:
      GEMEL_CHECK_LE(filled_, frame_.body.size());
      return filled_ == frame_.body.size() ? OnBody() : FrameProgress::kMore;
    case State::kPayload:
      GEMEL_CHECK_LE(filled_, frame_.header.payload_bytes);
      if (hashes_landing()) {
        landed_.Update(placement_.place.subspan(filled_ - bytes, bytes));
      }
      return filled_ == frame_.header.payload_bytes ? OnPayload() : FrameProgress::kMore;
    default:
      GEMEL_CHECK(false) << "bytes without a Target()";
  }
  return FrameProgress::kMore;
}

absl::Status FrameReader::AddHandles(Handles handles) {
  if (handles.empty()) {
    return absl::OkStatus();
  }
  if (state_ != State::kHeader) {
    return error::InvalidArgument("{} handles in the middle of a frame; they go with its header",
                                  handles.size());
  }
  if (frame_.handles.size() + handles.size() > kFrameHandlesMax) {
    return error::InvalidArgument("more than {} handles with one frame", kFrameHandlesMax);
  }
  std::move(handles.begin(), handles.end(), std::back_inserter(frame_.handles));
  return absl::OkStatus();
}

absl::StatusOr<FrameProgress> FrameReader::OnHeader() {
  GEMEL_ASSIGN_OR_RETURN(frame_.header, DecodeFrameHeader(header_bytes_));
  if (frame_.handles.size() != frame_.header.handle_count) {
    return error::InvalidArgument("a frame of type {} says {} handles and came with {}",
                                  static_cast<int>(frame_.header.type), frame_.header.handle_count,
                                  frame_.handles.size());
  }
  frame_.body.resize(frame_.header.body_bytes);
  state_ = State::kBody;
  filled_ = 0;
  return frame_.body.empty() ? OnBody() : FrameProgress::kMore;
}

absl::StatusOr<FrameProgress> FrameReader::OnBody() {
  GEMEL_RETURN_IF_ERROR(CheckFrameBody(frame_.header, frame_.body));
  const bool payload = frame_.header.payload_bytes > 0;
  state_ = payload ? State::kPlace : State::kFrame;
  return payload ? FrameProgress::kPlace : FrameProgress::kFrame;
}

void FrameReader::Place(Placement placement) {
  GEMEL_CHECK(state_ == State::kPlace);
  if (!placement.place.empty()) {
    GEMEL_CHECK_GE(placement.place.size(), frame_.header.payload_bytes);
  }
  frame_.payload_dropped = placement.place.empty();
  placement_ = std::move(placement);
  state_ = State::kPayload;
  filled_ = 0;
  if (hashes_landing()) {
    landed_.Reset();
  }
}

void FrameReader::SetFence(std::function<void()> fence) {
  GEMEL_CHECK(state_ == State::kPayload && !frame_.payload_dropped);
  fenced_ = fence != nullptr;
  if (placement_.revocation != nullptr) {
    placement_.revocation->SetFence(std::move(fence));
  }
}

void FrameReader::DropWhenRevoked() {
  if (!frame_.payload_dropped && placement_.revoked()) {
    frame_.payload_dropped = true;
    fenced_ = false;
    placement_ = Placement();
  }
}

FrameProgress FrameReader::OnPayload() {
  DropWhenRevoked();
  if (!frame_.payload_dropped) {
    frame_.payload = placement_.place.first(frame_.header.payload_bytes);
  }
  if (hashes_landing()) {
    frame_.landed = landed_.Finish();
  }
  placement_ = Placement();
  state_ = State::kFrame;
  return FrameProgress::kFrame;
}

IncomingFrame FrameReader::Take() {
  GEMEL_CHECK(state_ == State::kFrame);
  state_ = State::kHeader;
  filled_ = 0;
  return std::exchange(frame_, IncomingFrame());
}

}  // namespace gemel
