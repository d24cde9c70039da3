// SPDX-License-Identifier: Apache-2.0
//
// gRPC: unary calls of raw bytes (no protobuf), C++, over one connection.
#include "bench/rpc.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/codegen/server_callback_handlers.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <condition_variable>
#include <functional>
#include <string>
#include <utility>

#include "common/check.h"
#include "common/mutex.h"
#include "transport/control/grpc_message.h"

namespace gemel::bench {
namespace {

constexpr char kMethod[] = "/bench.Echo/Echo";

// One unary method, whose messages stay bytes.
class EchoService final : public grpc::Service {
 public:
  EchoService() {
    AddMethod(new grpc::internal::RpcServiceMethod(kMethod, grpc::internal::RpcMethod::NORMAL_RPC,
                                                   nullptr));
  }

  void ByQueue() { MarkMethodRaw(0); }

  void ByCallback() {
    using Handler = grpc::internal::CallbackUnaryHandler<grpc::ByteBuffer, grpc::ByteBuffer>;
    MarkMethodRawCallback(
        0, new Handler([](grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                          grpc::ByteBuffer* response) {
          *response = *request;
          grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
          reactor->Finish(grpc::Status::OK);
          return reactor;
        }));
  }

  using grpc::Service::RequestAsyncUnary;
};

// One call at a server of queues: waits for a request, answers it, makes room for the next.
class ServedCall {
 public:
  ServedCall(EchoService* service, grpc::ServerCompletionQueue* queue)
      : service_(service), queue_(queue), responder_(&context_) {
    service_->RequestAsyncUnary(0, &context_, &request_, &responder_, queue_, queue_, this);
  }

  void OnEvent(bool ok) {
    if (answered_ || !ok) {
      delete this;
      return;
    }
    new ServedCall(service_, queue_);
    answered_ = true;
    responder_.Finish(request_, grpc::Status::OK, this);
  }

 private:
  EchoService* const service_;
  grpc::ServerCompletionQueue* const queue_;
  grpc::ServerContext context_;
  grpc::ByteBuffer request_;
  grpc::ServerAsyncResponseWriter<grpc::ByteBuffer> responder_;
  bool answered_ = false;
};

std::shared_ptr<grpc::Channel> ChannelTo(int port) {
  return grpc::CreateChannel("127.0.0.1:" + std::to_string(port),
                             grpc::InsecureChannelCredentials());
}

std::chrono::system_clock::time_point Deadline() {
  return std::chrono::system_clock::now() + kPatience;
}

class QueueCaller final : public Caller {
 public:
  explicit QueueCaller(int port) : stub_(ChannelTo(port)) {}

  void Ask(size_t count, size_t depth, std::vector<double>* taken) override {
    size_t asked = 0;
    for (; asked < std::min(count, depth); ++asked) {
      Begin();
    }
    for (size_t heard = 0; heard < count; ++heard) {
      void* tag = nullptr;
      bool ok = false;
      GEMEL_CHECK(queue_.Next(&tag, &ok) && ok);
      const std::unique_ptr<Call> call(static_cast<Call*>(tag));
      GEMEL_CHECK(call->status.ok() && call->response.Length() == kBodyBytes)
          << call->status.error_message();
      if (taken != nullptr && depth == 1) {
        taken->push_back(SecondsSince(call->began));
      }
      if (asked < count) {
        asked += 1;
        Begin();
      }
    }
  }

 private:
  struct Call {
    const std::chrono::steady_clock::time_point began = std::chrono::steady_clock::now();
    grpc::ClientContext context;
    grpc::ByteBuffer response;
    grpc::Status status;
    std::unique_ptr<grpc::ClientAsyncResponseReader<grpc::ByteBuffer>> reader;
  };

  void Begin() {
    auto* call = new Call;
    call->context.set_deadline(Deadline());
    call->reader = stub_.PrepareUnaryCall(&call->context, kMethod, ToByteBuffer(body_), &queue_);
    call->reader->StartCall();
    call->reader->Finish(&call->response, &call->status, call);
  }

  grpc::GenericStub stub_;
  grpc::CompletionQueue queue_;
  const std::string body_ = std::string(kBodyBytes, 'b');
};

class CallbackCaller final : public Caller {
 public:
  explicit CallbackCaller(int port) : stub_(ChannelTo(port)) {}

  void Ask(size_t count, size_t depth, std::vector<double>* taken) override {
    MutexLock lock(&mutex_);
    to_ask_ = to_hear_ = count;
    taken_ = depth == 1 ? taken : nullptr;
    for (size_t i = 0; i < std::min(count, depth); ++i) {
      Begin();
    }
    while (to_hear_ > 0) {
      over_.wait(mutex_);
    }
  }

 private:
  struct Call {
    const std::chrono::steady_clock::time_point began = std::chrono::steady_clock::now();
    grpc::ClientContext context;
    grpc::ByteBuffer request;
    grpc::ByteBuffer response;
  };

  void Begin() GEMEL_REQUIRES(mutex_) {
    to_ask_ -= 1;
    auto* call = new Call;
    call->context.set_deadline(Deadline());
    call->request = ToByteBuffer(body_);
    stub_.UnaryCall(&call->context, kMethod, grpc::StubOptions(), &call->request, &call->response,
                    [this, call](const grpc::Status& status) { OnDone(call, status); });
  }

  void OnDone(Call* call, const grpc::Status& status) {
    GEMEL_CHECK(status.ok() && call->response.Length() == kBodyBytes) << status.error_message();
    MutexLock lock(&mutex_);
    if (taken_ != nullptr) {
      taken_->push_back(SecondsSince(call->began));
    }
    delete call;
    to_hear_ -= 1;
    if (to_hear_ == 0) {
      over_.notify_all();
    } else if (to_ask_ > 0) {
      Begin();
    }
  }

  grpc::GenericStub stub_;
  const std::string body_ = std::string(kBodyBytes, 'b');
  Mutex mutex_;
  std::condition_variable_any over_;
  size_t to_ask_ GEMEL_GUARDED_BY(mutex_) = 0;
  size_t to_hear_ GEMEL_GUARDED_BY(mutex_) = 0;
  std::vector<double>* taken_ GEMEL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace

void ServeGrpcQueue(int ready) {
  EchoService service;
  service.ByQueue();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::ServerCompletionQueue> queue = builder.AddCompletionQueue();
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  GEMEL_CHECK(server != nullptr && port > 0);
  for (size_t i = 0; i < kDepthMax; ++i) {
    new ServedCall(&service, queue.get());
  }
  TellPort(ready, port);
  void* tag = nullptr;
  for (bool ok = false; queue->Next(&tag, &ok);) {
    static_cast<ServedCall*>(tag)->OnEvent(ok);
  }
}

void ServeGrpcCallback(int ready) {
  EchoService service;
  service.ByCallback();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  GEMEL_CHECK(server != nullptr && port > 0);
  TellPort(ready, port);
  server->Wait();
}

std::unique_ptr<Caller> CallGrpcQueue(int port) { return std::make_unique<QueueCaller>(port); }

std::unique_ptr<Caller> CallGrpcCallback(int port) {
  return std::make_unique<CallbackCaller>(port);
}

}  // namespace gemel::bench
