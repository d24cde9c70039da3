// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/lincheck/random_jobs.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <iterator>

#include "common/check.h"

namespace gemel::sim {
namespace {

using Index = size_t;

// The true job, written apart from the model: what placement would do.
struct TrueJob {
  uint64_t counter = 0;
  std::map<EpochToken, uint64_t> tokens;
  uint64_t next_sequence = 1;
  std::map<std::string, uint64_t> open;  // of the present epoch, by name
  std::set<uint64_t> committed;
  std::optional<uint64_t> restored;
  bool opened = false;
  bool removed = false;

  uint64_t Latest() const { return committed.empty() ? 0 : *committed.rbegin(); }

  uint64_t persisted = 0;
};

class JobRun {
 public:
  JobRun(const JobShape& shape, Random* random)
      : shape_(shape), random_(*random), clients_(shape.processes), jobs_(shape.jobs) {}

  History<JobCall> Go();

 private:
  struct Client {
    OperationIndex operation = kNotRecorded;
    bool effected = false;
    JobCall call;
    Outcome outcome = Outcome::kTold;
    uint32_t job = 0;
    EpochToken token;
    EpochId epoch;  // of the client's last acquire
    std::vector<uint64_t> opened;
  };

  void Advance(uint32_t process);
  void Invoke(uint32_t process, Client* client);
  void Effect(Client* client);
  bool Do(TrueJob* job, Client* client);
  bool Acquire(TrueJob* job, Client* client);
  bool OpenSave(TrueJob* job, Client* client);
  bool Commit(TrueJob* job, Client* client);

  const JobShape shape_;
  Random& random_;
  Recorder<JobCall> recorder_;
  std::vector<Client> clients_;
  std::vector<TrueJob> jobs_;
  uint64_t next_token_ = 1;
  uint64_t next_name_ = 1;
};

void JobRun::Invoke(uint32_t process, Client* client) {
  client->effected = false;
  client->outcome = Outcome::kTold;
  JobCall call;
  const uint64_t choice = random_.Below(100);
  if (client->epoch.IsNone() || choice < 8) {
    client->job = static_cast<uint32_t>(random_.Below(shape_.jobs));
    call.kind = JobCallKind::kAcquireEpoch;
    if (client->token.IsZero() || random_.Chance(3, 4)) {
      client->token = EpochToken();
      client->token.bytes[0] = static_cast<uint8_t>(next_token_);
      client->token.bytes[1] = static_cast<uint8_t>(next_token_ >> 8);
      next_token_ += 1;
    }
    call.token = client->token;
    client->opened.clear();
  } else if (choice < 45) {
    call.kind = JobCallKind::kOpen;
    next_name_ += random_.Below(2);  // often the name that another rank opens
    call.name = fmt::format("step{}", next_name_);
  } else if (choice < 70 && !client->opened.empty()) {
    call.kind = JobCallKind::kCommit;
    call.sequence = client->opened[random_.Below(client->opened.size())];
  } else if (choice < 80) {
    call.kind = JobCallKind::kRestore;
  } else if (choice < 88) {
    call.kind = JobCallKind::kLatest;
  } else if (choice < 93 && jobs_[client->job].Latest() != 0) {
    call.kind = JobCallKind::kPersist;
    call.sequence = jobs_[client->job].Latest();
  } else if (choice < 97) {
    call.kind = JobCallKind::kLatestPersisted;
  } else {
    call.kind = shape_.removals ? JobCallKind::kRemove : JobCallKind::kLatest;
  }
  call.job = fmt::format("job{}", client->job);
  call.epoch = call.kind == JobCallKind::kAcquireEpoch ? EpochId() : client->epoch;
  client->call = call;
  client->operation = recorder_.Invoke(process, std::move(call));
}

bool JobRun::Acquire(TrueJob* job, Client* client) {
  const auto known = job->tokens.find(client->call.token);
  if (known != job->tokens.end() && known->second != job->counter) {
    client->outcome = Outcome::kRefused;
    return true;
  }
  if (known == job->tokens.end()) {
    job->counter += 1;
    job->tokens[client->call.token] = job->counter;
    job->open.clear();
    job->restored.reset();
    job->opened = false;
    job->removed = false;
  }
  client->call.epoch = {.generation = 1, .counter = job->counter};
  return true;
}

bool JobRun::OpenSave(TrueJob* job, Client* client) {
  JobCall& call = client->call;
  if (call.epoch.counter != job->counter) {
    return false;
  }
  if (!job->open.contains(call.name)) {
    job->open[call.name] = job->next_sequence++;
  }
  job->opened = true;
  call.sequence = job->open[call.name];
  return true;
}

bool JobRun::Commit(TrueJob* job, Client* client) {
  const JobCall& call = client->call;
  if (job->committed.contains(call.sequence)) {
    return true;
  }
  if (call.epoch.counter != job->counter || job->removed) {
    return false;
  }
  job->committed.insert(call.sequence);
  return true;
}

// False: the client learns nothing that it could tell.
bool JobRun::Do(TrueJob* job, Client* client) {
  JobCall& call = client->call;
  switch (call.kind) {
    case JobCallKind::kAcquireEpoch:
      return Acquire(job, client);
    case JobCallKind::kOpen:
      return OpenSave(job, client);
    case JobCallKind::kCommit:
      return Commit(job, client);
    case JobCallKind::kRestore:
      if (call.epoch.counter != job->counter || (!job->restored.has_value() && job->opened)) {
        return false;
      }
      if (!job->restored.has_value()) {
        job->restored = job->Latest();
      }
      call.sequence = *job->restored;
      return true;
    case JobCallKind::kLatest:
      call.sequence = job->Latest();
      return true;
    case JobCallKind::kPersist:
      if (!job->committed.contains(call.sequence)) {
        return false;
      }
      job->persisted = std::max(job->persisted, call.sequence);
      return true;
    case JobCallKind::kLatestPersisted:
      call.sequence = job->persisted;
      return true;
    case JobCallKind::kRemove:
      job->committed.clear();
      job->persisted = 0;
      job->removed = true;
      return true;
    case JobCallKind::kAbort:
      return false;
  }
  return false;
}

void JobRun::Effect(Client* client) {
  client->effected = true;
  const bool unknown = random_.Chance(shape_.unknown_permille, 1000);
  if (unknown && random_.Chance(1, 2)) {
    client->outcome = Outcome::kUnknown;  // it never takes effect
    return;
  }
  const bool told = Do(&jobs_[client->job], client);
  if (unknown || !told) {
    client->outcome = Outcome::kUnknown;
  }
}

void JobRun::Advance(uint32_t process) {
  Client& client = clients_[process];
  if (client.operation == kNotRecorded) {
    Invoke(process, &client);
    return;
  }
  if (!client.effected) {
    Effect(&client);
    return;
  }
  const JobCall& call = client.call;
  recorder_.Return(client.operation, client.outcome,
                   client.outcome == Outcome::kTold ? call : recorder_.Asked(client.operation));
  if (client.outcome == Outcome::kTold && call.kind == JobCallKind::kAcquireEpoch) {
    client.epoch = call.epoch;
  } else if (client.outcome == Outcome::kTold && call.kind == JobCallKind::kOpen) {
    client.opened.push_back(call.sequence);
  } else if (client.outcome != Outcome::kTold && call.kind == JobCallKind::kAcquireEpoch) {
    client.epoch = EpochId();
  }
  client.operation = kNotRecorded;
}

History<JobCall> JobRun::Go() {
  while (recorder_.history().size() < shape_.operations) {
    Advance(static_cast<uint32_t>(random_.Below(shape_.processes)));
  }
  return recorder_.history();
}

bool IsTold(const Operation<JobCall>& operation, JobCallKind kind) {
  return operation.outcome == Outcome::kTold && operation.call.kind == kind;
}

bool WithSomePair(const History<JobCall>& history, Random* random,
                  const std::function<bool(Index, Index)>& change) {
  const size_t count = history.size();
  const size_t first = random->Below(count);
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = 0; j < count; ++j) {
      const size_t a = (first + i) % count;
      if (a != j && change(a, j)) {
        return true;
      }
    }
  }
  return false;
}

uint64_t LastMoment(const History<JobCall>& history) {
  uint64_t last = 0;
  for (const Operation<JobCall>& operation : history) {
    last = std::max(
        {last, operation.invoked, operation.returned == kNeverReturned ? 0 : operation.returned});
  }
  return last;
}

void Append(History<JobCall>* history, JobCall call) {
  const uint64_t last = LastMoment(*history);
  history->push_back({.process = 99,
                      .invoked = last + 1,
                      .returned = last + 2,
                      .outcome = Outcome::kTold,
                      .call = std::move(call)});
}

uint64_t SequenceMax(const History<JobCall>& history) {
  uint64_t most = 0;
  for (const Operation<JobCall>& operation : history) {
    most = std::max(most, operation.call.sequence);
  }
  return most;
}

// Takes away what might stand for one that is taken away: operations of unknown outcome.
void ForgetUnknown(History<JobCall>* history, JobCallKind kind) {
  std::erase_if(*history, [kind](const Operation<JobCall>& operation) {
    return operation.call.kind == kind && operation.outcome == Outcome::kUnknown;
  });
}

bool EpochTwice(History<JobCall>* history, Random* random) {
  return WithSomePair(*history, random, [history](Index first, Index second) {
    const Operation<JobCall>& a = (*history)[first];
    Operation<JobCall>& b = (*history)[second];
    if (!IsTold(a, JobCallKind::kAcquireEpoch) || !IsTold(b, JobCallKind::kAcquireEpoch) ||
        a.call.token == b.call.token) {
      return false;
    }
    b.call.epoch = a.call.epoch;
    return true;
  });
}

bool TokenRenewed(History<JobCall>* history, Random* random) {
  return WithSomePair(*history, random, [history](Index first, Index second) {
    const Operation<JobCall>& a = (*history)[first];
    const Operation<JobCall>& b = (*history)[second];
    if (!IsTold(a, JobCallKind::kAcquireEpoch) || !IsTold(b, JobCallKind::kAcquireEpoch) ||
        a.call.epoch.counter >= b.call.epoch.counter) {
      return false;
    }
    JobCall again = a.call;
    again.epoch.counter = b.call.epoch.counter + 1;
    Append(history, std::move(again));
    return true;
  });
}

// Takes away all that was told of one epoch or sequence that later ones came after.
bool LostAcquire(History<JobCall>* history, Random* random) {
  ForgetUnknown(history, JobCallKind::kAcquireEpoch);
  return WithSomePair(*history, random, [history](Index first, Index second) {
    const Operation<JobCall> a = (*history)[first];
    const Operation<JobCall> b = (*history)[second];
    if (!IsTold(a, JobCallKind::kAcquireEpoch) || !IsTold(b, JobCallKind::kAcquireEpoch) ||
        a.call.epoch.counter >= b.call.epoch.counter) {
      return false;
    }
    std::erase_if(*history, [&a](const Operation<JobCall>& operation) {
      return operation.call.kind == JobCallKind::kAcquireEpoch &&
             operation.call.token == a.call.token;
    });
    return true;
  });
}

bool SequenceTwice(History<JobCall>* history, Random* random) {
  return WithSomePair(*history, random, [history](Index first, Index second) {
    const Operation<JobCall>& a = (*history)[first];
    Operation<JobCall>& b = (*history)[second];
    if (!IsTold(a, JobCallKind::kOpen) || !IsTold(b, JobCallKind::kOpen) ||
        a.call.sequence == b.call.sequence) {
      return false;
    }
    b.call.sequence = a.call.sequence;
    return true;
  });
}

bool LostOpen(History<JobCall>* history, Random* random) {
  ForgetUnknown(history, JobCallKind::kOpen);
  return WithSomePair(*history, random, [history](Index first, Index second) {
    const Operation<JobCall> a = (*history)[first];
    const Operation<JobCall> b = (*history)[second];
    if (!IsTold(a, JobCallKind::kOpen) || !IsTold(b, JobCallKind::kOpen) ||
        a.call.sequence >= b.call.sequence) {
      return false;
    }
    std::erase_if(*history, [&a](const Operation<JobCall>& operation) {
      return operation.call.kind == JobCallKind::kOpen && operation.call.name == a.call.name &&
             operation.call.epoch == a.call.epoch;
    });
    return true;
  });
}

bool FencedCommit(History<JobCall>* history, Random* random) {
  return WithSomePair(*history, random, [history](Index commit, Index newer) {
    Operation<JobCall>& operation = (*history)[commit];
    const Operation<JobCall>& acquire = (*history)[newer];
    const auto of_it = [&operation](const Operation<JobCall>& other) {
      return other.call.kind == JobCallKind::kCommit &&
             other.call.sequence == operation.call.sequence;
    };
    if (!IsTold(operation, JobCallKind::kCommit) || !IsTold(acquire, JobCallKind::kAcquireEpoch) ||
        acquire.call.epoch <= operation.call.epoch ||
        std::count_if(history->begin(), history->end(), of_it) != 1) {
      return false;
    }
    const uint64_t last = LastMoment(*history);
    operation.invoked = last + 1;
    operation.returned = last + 2;
    return true;
  });
}

bool StaleLatest(History<JobCall>* history, Random* random) {
  return WithSomePair(*history, random, [history](Index read, Index commit) {
    Operation<JobCall>& reader = (*history)[read];
    const Operation<JobCall>& writer = (*history)[commit];
    if (!IsTold(reader, JobCallKind::kLatest) || !IsTold(writer, JobCallKind::kCommit) ||
        writer.returned >= reader.invoked) {
      return false;
    }
    reader.call.sequence = writer.call.sequence - 1;
    return true;
  });
}

bool RestoreChanged(History<JobCall>* history, Random* random, bool invented) {
  const uint64_t most = SequenceMax(*history);
  return WithSomePair(*history, random, [history, invented, most](Index read, Index commit) {
    Operation<JobCall>& reader = (*history)[read];
    const Operation<JobCall>& writer = (*history)[commit];
    if (!IsTold(reader, JobCallKind::kRestore) || !IsTold(writer, JobCallKind::kCommit)) {
      return false;
    }
    if (invented) {
      reader.call.sequence = most + 1;
      return true;
    }
    if (writer.returned >= reader.invoked || writer.call.epoch >= reader.call.epoch) {
      return false;
    }
    reader.call.sequence = writer.call.sequence - 1;
    return true;
  });
}

bool PersistBeforeCommit(History<JobCall>* history, Random* random) {
  constexpr uint64_t kSpace = 4;
  for (Operation<JobCall>& operation : *history) {
    operation.invoked *= kSpace;
    operation.returned *= operation.returned == kNeverReturned ? 1 : kSpace;
  }
  return WithSomePair(*history, random, [history](Index persist, Index commit) {
    Operation<JobCall>& operation = (*history)[persist];
    if (!IsTold(operation, JobCallKind::kPersist) ||
        !IsTold((*history)[commit], JobCallKind::kCommit)) {
      return false;
    }
    uint64_t begins = kNeverReturned;
    for (const Operation<JobCall>& other : *history) {
      if (other.call.kind == JobCallKind::kCommit &&
          other.call.sequence == operation.call.sequence) {
        begins = std::min(begins, other.invoked);
      }
    }
    GEMEL_CHECK_LT(begins, kNeverReturned);
    operation.invoked = begins - 2;
    operation.returned = begins - 1;
    return true;
  });
}

bool PersistedBack(History<JobCall>* history, Random* random) {
  return WithSomePair(*history, random, [history](Index read, Index persist) {
    Operation<JobCall>& reader = (*history)[read];
    const Operation<JobCall>& writer = (*history)[persist];
    if (!IsTold(reader, JobCallKind::kLatestPersisted) || !IsTold(writer, JobCallKind::kPersist) ||
        writer.returned >= reader.invoked) {
      return false;
    }
    reader.call.sequence = writer.call.sequence - 1;
    return true;
  });
}

bool AppendWrong(JobMutation mutation, History<JobCall>* history, Random* random) {
  return WithSomePair(*history, random, [mutation, history](Index commit, Index) {
    const Operation<JobCall> committed = (*history)[commit];
    if (!IsTold(committed, JobCallKind::kCommit)) {
      return false;
    }
    JobCall call = committed.call;
    if (mutation == JobMutation::kCommitAfterAbort) {
      call.kind = JobCallKind::kAbort;
      Append(history, std::move(call));
      return true;
    }
    call.kind = JobCallKind::kRemove;
    Append(history, call);
    call.kind = JobCallKind::kLatest;
    Append(history, std::move(call));
    return true;
  });
}

}  // namespace

History<JobCall> RandomJobHistory(const JobShape& shape, Random* random) {
  GEMEL_CHECK(shape.processes > 0 && shape.jobs > 0);
  return JobRun(shape, random).Go();
}

std::string_view NameOf(JobMutation mutation) {
  static constexpr std::string_view kNames[] = {"epoch twice",
                                                "token renewed",
                                                "lost acquire",
                                                "sequence twice",
                                                "lost open",
                                                "fenced commit",
                                                "commit and abort",
                                                "stale latest",
                                                "restore of nothing",
                                                "restore of an older one",
                                                "persist before commit",
                                                "persisted goes back",
                                                "removed is there"};
  static_assert(std::size(kNames) == std::size(kJobMutations));
  return kNames[static_cast<size_t>(mutation)];
}

bool Mutate(JobMutation mutation, History<JobCall>* history, Random* random) {
  GEMEL_CHECK(!history->empty());
  switch (mutation) {
    case JobMutation::kEpochTwice:
      return EpochTwice(history, random);
    case JobMutation::kTokenRenewed:
      return TokenRenewed(history, random);
    case JobMutation::kLostAcquire:
      return LostAcquire(history, random);
    case JobMutation::kSequenceTwice:
      return SequenceTwice(history, random);
    case JobMutation::kLostOpen:
      return LostOpen(history, random);
    case JobMutation::kFencedCommit:
      return FencedCommit(history, random);
    case JobMutation::kStaleLatest:
      return StaleLatest(history, random);
    case JobMutation::kRestoreInvented:
      return RestoreChanged(history, random, true);
    case JobMutation::kRestoreOlder:
      return RestoreChanged(history, random, false);
    case JobMutation::kPersistBeforeCommit:
      return PersistBeforeCommit(history, random);
    case JobMutation::kPersistedBack:
      return PersistedBack(history, random);
    case JobMutation::kCommitAfterAbort:
    case JobMutation::kRemovedIsThere:
      return AppendWrong(mutation, history, random);
  }
  return false;
}

}  // namespace gemel::sim
