// SPDX-License-Identifier: Apache-2.0
//
// Requests to placement made of choices: fields by reflection, most of them such that calls fit
// together (a server joins, opens, reports receipts, acknowledges), the others wild. What replies
// name (ids, snapshots, epochs, records) is used again.
//
// Thread safety: one thread.
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gemel/v1/placement.pb.h"
#include "placement/model/protocol.h"
#include "placement/model/records.h"
#include "tests/fuzz/inputs.h"

namespace gemel {

namespace pb = ::gemel::v1;

class PlacementRequests {
 public:
  using Field = google::protobuf::FieldDescriptor;
  using Message = google::protobuf::Message;

  static const std::vector<std::string>& Methods() {
    static const auto* const kMethods = [] {
      auto* methods = new std::vector<std::string>;
      const auto* file = pb::Caller::descriptor()->file();
      for (int i = 0; i < file->service(0)->method_count(); ++i) {
        methods->push_back(file->service(0)->method(i)->name());
      }
      return methods;
    }();
    return *kMethods;
  }

  static std::unique_ptr<Message> New(const std::string& type) {
    const auto* descriptor = pb::Caller::descriptor()->file()->FindMessageTypeByName(type);
    const auto* factory = google::protobuf::MessageFactory::generated_factory();
    return std::unique_ptr<Message>(
        const_cast<google::protobuf::MessageFactory*>(factory)->GetPrototype(descriptor)->New());
  }

  std::unique_ptr<Message> Make(const std::string& method, Choices* choices) {
    std::unique_ptr<Message> request = New(method + "Request");
    server_ = choices->Below(kServers);
    Fill(request.get(), choices, 0);
    return request;
  }

  void Learn(const std::string& method, const std::string& raw) {
    const std::unique_ptr<Message> reply = New(method + "Reply");
    if (reply->ParseFromString(raw)) {
      Learn(*reply);
    }
  }

  // A caller that joined under the name of server `index`.
  void FillCaller(size_t index, pb::Caller* caller) const {
    caller->set_protocol_version(kControlProtocolVersion);
    caller->set_cluster_id(cluster_);
    caller->set_server_id(std::string(16, static_cast<char>('A' + index)));
    caller->set_incarnation(std::string(16, static_cast<char>('a' + index)));
  }

  void FillJoin(size_t index, pb::JoinRequest* join) const {
    FillCaller(index, join->mutable_caller());
    join->set_name("server-" + std::to_string(index));
    join->set_domain("host-" + std::to_string(index));
    join->set_data_address("sim://host-" + std::to_string(index) + "/1");
    join->set_capacity_bytes(kMiB);
  }

  static constexpr size_t kServers = 3;
  static constexpr const char* kToken = "tttttttttttttttt";

 private:
  static constexpr int kDepthMax = 4;
  static constexpr size_t kKept = 16;  // of what was learnt of one kind
  static constexpr uint8_t kWildFrom = 240;

  void Fill(Message* message, Choices* choices, int depth) {
    const auto* descriptor = message->GetDescriptor();
    const std::string& type = descriptor->name();
    const bool wild = choices->Byte() >= kWildFrom;
    if (!wild && type == "Caller") {
      FillCaller(server_, static_cast<pb::Caller*>(message));
      return;
    }
    if (!wild && (type == "SnapshotId" || type == "EpochId") && !learnt_[type].empty()) {
      message->ParseFromString(PickOf(learnt_[type], choices));
      return;
    }
    for (int i = 0; i < descriptor->field_count(); ++i) {
      const Field* field = descriptor->field(i);
      const bool one_of = field->containing_oneof() != nullptr;
      if (one_of && choices->Below(descriptor->oneof_decl(0)->field_count()) != 0) {
        continue;
      }
      const size_t count = field->is_repeated() ? choices->Below(3) : 1;
      for (size_t n = 0; n < count; ++n) {
        FillField(message, field, choices, depth);
      }
    }
    if (!wild && type == "JoinRequest") {
      auto* join = static_cast<pb::JoinRequest*>(message);
      FillJoin(server_, join);
    }
  }

  void FillField(Message* message, const Field* field, Choices* choices, int depth) {
    const auto* reflection = message->GetReflection();
    const bool many = field->is_repeated();
    switch (field->cpp_type()) {
      case Field::CPPTYPE_MESSAGE:
        if (depth < kDepthMax) {
          Fill(many ? reflection->AddMessage(message, field)
                    : reflection->MutableMessage(message, field),
               choices, depth + 1);
        }
        return;
      case Field::CPPTYPE_STRING: {
        const std::string text = TextFor(*field, choices);
        many ? reflection->AddString(message, field, text)
             : reflection->SetString(message, field, text);
        return;
      }
      case Field::CPPTYPE_BOOL:
        reflection->SetBool(message, field, choices->Below(2) == 1);
        return;
      case Field::CPPTYPE_ENUM:
        reflection->SetEnumValue(message, field, static_cast<int>(choices->Below(3)));
        return;
      default:
        FillNumber(message, field, NumberFor(field->name(), choices));
    }
  }

  static void FillNumber(Message* message, const Field* field, uint64_t value) {
    const auto* reflection = message->GetReflection();
    const bool many = field->is_repeated();
    if (field->cpp_type() == Field::CPPTYPE_UINT32) {
      const auto narrow = static_cast<uint32_t>(value);
      many ? reflection->AddUInt32(message, field, narrow)
           : reflection->SetUInt32(message, field, narrow);
    } else if (field->cpp_type() == Field::CPPTYPE_UINT64) {
      reflection->SetUInt64(message, field, value);
    } else {
      reflection->SetInt64(message, field, static_cast<int64_t>(value));
    }
  }

  // Numbers that fit together, else small, learnt or extreme ones.
  uint64_t NumberFor(const std::string& name, Choices* choices) {
    static const std::map<std::string, uint64_t> kFitting = {
        {"world_size", 1}, {"shard_bytes", 100}, {"bytes", 100},   {"layout_bytes", 10},
        {"rank", 0},       {"copies", 2},        {"attempt", 0},   {"min_copies", 0},
        {"code", 0},       {"generation", 0},    {"wait_ms", 100}, {"deadline_ms", 0}};
    const uint8_t choice = choices->Byte();
    const auto fitting = kFitting.find(name);
    if (choice < 200 && fitting != kFitting.end()) {
      return fitting->second;
    }
    if (choice < 220 && !numbers_.empty()) {
      return numbers_[choices->Below(numbers_.size())];
    }
    if (choice < kWildFrom) {
      return choices->Below(4);
    }
    return choices->Below(2) == 0 ? UINT64_MAX - choices->Below(4) : choices->Bits64();
  }

  std::string TextFor(const Field& field, Choices* choices) {
    const std::string& name = field.name();
    const uint8_t choice = choices->Byte();
    if (choice >= kWildFrom) {
      const bool long_one = choices->Below(4) == 0;
      return long_one ? std::string(300, 'x') : choices->Text(choices->Below(20));
    }
    if (name == "job") {
      return choice < 200 ? "gpt" : "b";
    }
    if (name == "name") {
      return "s" + std::to_string(choice % 3);
    }
    if (field.type() != Field::TYPE_BYTES) {
      return "why";
    }
    if (name == "token") {
      return choice < 200 ? kToken : std::string(16, 'u');
    }
    if (name == "last_members" || name == "unreachable" || name == "server_id") {
      return std::string(16, static_cast<char>('A' + choice % kServers));
    }
    const std::string key = name == "commit_records" ? "record" : name;
    if (!learnt_[key].empty() && name != "layout_hash") {
      return PickOf(learnt_[key], choices);
    }
    return name == "commit_records" ? MadeUpRecord(choices) : std::string(16, 'r');
  }

  // A commit that the cluster never made, with names and numbers of any kind.
  std::string MadeUpRecord(Choices* choices) {
    static const std::vector<std::string> kJobs = {"gpt", "b", "", "a/b", "x y"};
    model::CommitRecord record;
    const absl::StatusOr<ClusterId> cluster = ClusterId::FromBytes(cluster_);
    record.cluster = cluster.ok() ? *cluster : ClusterId();
    record.snapshot.job = kJobs[choices->Below(kJobs.size())];
    record.snapshot.name = choices->Below(4) == 0 ? "" : "s9";
    record.snapshot.epoch = {NumberFor("", choices), NumberFor("", choices)};
    record.snapshot.sequence = NumberFor("", choices);
    record.world_size = 1;
    record.copies = static_cast<uint32_t>(NumberFor("copies", choices));
    record.min_copies = static_cast<uint32_t>(NumberFor("copies", choices));
    record.strategy = static_cast<StrategyChoice>(choices->Below(2));
    return model::EncodeCommitRecord(record);
  }

  static const std::string& PickOf(const std::vector<std::string>& values, Choices* choices) {
    return values[values.size() - 1 - choices->Below(std::min<size_t>(values.size(), 4))];
  }

  void Keep(const std::string& kind, std::string value) {
    std::vector<std::string>& kept = learnt_[kind];
    if (!value.empty() && (kept.empty() || kept.back() != value)) {
      kept.push_back(std::move(value));
    }
    if (kept.size() > kKept) {
      kept.erase(kept.begin());
    }
  }

  void Learn(const Message& message) {
    const std::string& type = message.GetDescriptor()->name();
    if (type == "SnapshotId" || type == "EpochId") {
      Keep(type, message.SerializeAsString());
    }
    std::vector<const Field*> fields;
    message.GetReflection()->ListFields(message, &fields);
    for (const Field* field : fields) {
      LearnField(message, *field);
    }
  }

  void LearnField(const Message& message, const Field& field) {
    const auto* reflection = message.GetReflection();
    const int count = field.is_repeated() ? reflection->FieldSize(message, &field) : 0;
    if (field.cpp_type() == Field::CPPTYPE_MESSAGE) {
      for (int i = 0; i < count; ++i) {
        Learn(reflection->GetRepeatedMessage(message, &field, i));
      }
      if (!field.is_repeated()) {
        Learn(reflection->GetMessage(message, &field));
      }
    } else if (field.type() == Field::TYPE_BYTES && !field.is_repeated()) {
      const std::string value = reflection->GetString(message, &field);
      (field.name() == "cluster_id" ? cluster_ : spare_) = value;
      Keep(field.name(), value);
    } else if (field.cpp_type() == Field::CPPTYPE_UINT64 && !field.is_repeated()) {
      numbers_.push_back(reflection->GetUInt64(message, &field));
      if (numbers_.size() > kKept) {
        numbers_.erase(numbers_.begin());
      }
    }
  }

  size_t server_ = 0;  // that makes the present request
  std::string cluster_;
  std::string spare_;
  std::map<std::string, std::vector<std::string>> learnt_;
  std::vector<uint64_t> numbers_;
};

}  // namespace gemel
