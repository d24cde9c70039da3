// SPDX-License-Identifier: Apache-2.0
//
// AskCredit: how many chunks of a grant may come. Who is given how many is Admission's to say.
#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/fields.h"
#include "common/points.h"
#include "common/status_macros.h"
#include "server/holder.h"
#include "server/limits.h"

namespace gemel {

void Holder::LimitGrant(const Grant& grant, uint32_t chunks) {
  GEMEL_CHECK(!limited_.contains(grant.region)) << "region " << grant.region;
  Limited limited;
  limited.risen = std::make_shared<WaitQueue>(seams_.loop);
  limited.transfer = parts_.admission->Begin(
      TransferClass::kCheckpoint, chunks,
      [this, region = grant.region, risen = limited.risen](uint32_t credit) {
        regions_.SetCredit(region, credit);
        risen->NotifyAll();
      });
  regions_.SetCredit(grant.region, 0);
  limited_[grant.region] = std::move(limited);
}

// The grant has ended, or nobody may write under it any more.
void Holder::EndLimit(uint64_t region) {
  const auto found = limited_.find(region);
  if (found == limited_.end()) {
    return;
  }
  const Limited limited = std::move(found->second);
  limited_.erase(found);
  limited.risen->NotifyAll();
  parts_.admission->End(limited.transfer, seams_.loop->Now());
}

absl::StatusOr<Holder::Limited> Holder::FindLimit(const FrameHeader& header) const {
  const auto found = limited_.find(header.region);
  if (found == limited_.end() || !regions_.IsOpen(header.region, header.generation)) {
    return error::NotFound("region {} has no grant that waits for credit here: offer it again",
                           header.region);
  }
  return found->second;
}

// A chunk was placed there.
void Holder::CountArrival(uint64_t region) {
  const auto found = limited_.find(region);
  if (found != limited_.end()) {
    parts_.admission->Arrived(found->second.transfer, seams_.loop->Now());
  }
}

Reply Holder::CreditReply(uint64_t region) const {
  Reply reply;
  const auto found = limited_.find(region);
  if (found != limited_.end()) {
    Credit credit;
    credit.chunks = parts_.admission->credit(found->second.transfer);
    reply.body = EncodeMessage(credit);
  }
  return reply;
}

Task<absl::StatusOr<Reply>> Holder::OnAskCredit(IncomingRequest request) {
  GEMEL_CO_ASSIGN_OR_RETURN(const AskCredit ask, DecodeMessage<AskCredit>(request.body));
  GEMEL_CO_ASSIGN_OR_RETURN(Limited limited, FindLimit(request.header));
  parts_.admission->Want(limited.transfer, ask.wanted, seams_.loop->Now());
  const TimePoint until = Add(seams_.loop->Now(), kCreditHold);
  if (parts_.admission->credit(limited.transfer) <= ask.have) {
    Sometimes(Situation::kCreditWaited);
    seams_.metrics
        ->Counter("gemel_credit_waits_total",
                  "Times a sender waited because as much was on its way here as may be.")
        .Add(1);
  }
  while (parts_.admission->credit(limited.transfer) <= ask.have && seams_.loop->Now() < until) {
    const TimePoint look = Add(seams_.loop->Now(), kCreditLook);
    co_await limited.risen->WaitUntil(std::min(look, until));
    GEMEL_CO_ASSIGN_OR_RETURN(limited, FindLimit(request.header));
    parts_.admission->Give(seams_.loop->Now());
  }
  co_return CreditReply(request.header.region);
}

}  // namespace gemel
