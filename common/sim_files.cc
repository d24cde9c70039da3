// SPDX-License-Identifier: Apache-2.0
#include "common/sim_files.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/check.h"

namespace gemel {
namespace {

constexpr size_t kBlockBytes = 4 * kKiB;  // of the medium: what is written or lost at once
constexpr uint64_t kBitsPerByte = 8;
constexpr uint8_t kTornMask = 0xa5;  // what a torn byte differs by

// What is above `path`; empty above a first part.
std::string_view ParentOf(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
}

int Failed(int error) {
  errno = error;
  return -1;
}

}  // namespace

void SimFileSystem::Apply(const Change& change, Names* names) {
  GEMEL_CHECK(!change.from.empty() || !change.to.empty());
  if (!change.from.empty()) {
    names->erase(change.from);
  }
  if (!change.to.empty()) {
    (*names)[change.to] = change.inode;
  }
}

// Within the length that the medium has.
void SimFileSystem::WriteBlock(size_t block, Inode* inode) {
  const size_t begin = block * kBlockBytes;
  const size_t end = std::min({begin + kBlockBytes, inode->cached.size(), inode->durable.size()});
  if (begin < end) {
    std::memcpy(inode->durable.data() + begin, inode->cached.data() + begin, end - begin);
  }
}

// Invariants (2) and (3).
void SimFileSystem::Settle(Inode* inode, Random* random) {
  if (!inode->dirty.empty() && inode->cached.size() != inode->durable.size() &&
      random->Chance(1, 2)) {
    inode->durable.resize(inode->cached.size());
  }
  for (const size_t block : inode->dirty) {
    if (random->Chance(1, 2)) {
      WriteBlock(block, inode);
    }
  }
  inode->dirty.clear();
  inode->astray = false;
  if (inode->cached != inode->durable) {
    inode->cached = inode->durable;
  }
}

void SimFileSystem::Crash(Random* random) {
  const size_t kept = journal_.empty() ? 0 : random->Below(journal_.size() + 1);
  for (size_t i = 0; i < kept; ++i) {
    Apply(journal_[i], &durable_names_);
  }
  journal_.clear();
  // What lies in a directory that never came to be is out of reach. Parents come before children.
  for (auto name = durable_names_.begin(); name != durable_names_.end();) {
    const auto parent = durable_names_.find(std::string(ParentOf(name->first)));
    const bool reached = name->first == kTop || parent != durable_names_.end();
    name = reached ? std::next(name) : durable_names_.erase(name);
  }
  GEMEL_CHECK(durable_names_.contains(std::string(kTop)));
  names_ = durable_names_;
  for (const auto& [path, inode] : names_) {
    Settle(inode.get(), random);
  }
}

void SimFileSystem::Format() {
  auto top = std::make_shared<Inode>();
  top->is_directory = true;
  journal_.clear();
  names_ = {{std::string(kTop), std::move(top)}};
  durable_names_ = names_;
}

void SimFileSystem::Put(const std::string& path, std::string bytes) {
  GEMEL_CHECK(path.starts_with(kTop) && path.size() > kTop.size() + 1) << path;
  for (size_t slash = path.find('/', kTop.size() + 1); slash != std::string::npos;
       slash = path.find('/', slash + 1)) {
    auto [directory, made] = names_.try_emplace(path.substr(0, slash));
    if (made) {
      directory->second = std::make_shared<Inode>();
      directory->second->is_directory = true;
    }
    GEMEL_CHECK(directory->second->is_directory) << directory->first;
    durable_names_[directory->first] = directory->second;
  }
  auto file = std::make_shared<Inode>();
  file->cached = bytes;
  file->durable = std::move(bytes);
  names_[path] = file;
  durable_names_[path] = std::move(file);
}

const std::string* SimFileSystem::Find(const std::string& path, View view) const {
  const Names& names = view == View::kCached ? names_ : durable_names_;
  const auto found = names.find(path);
  if (found == names.end() || found->second->is_directory) {
    return nullptr;
  }
  for (std::string above = path; above != kTop && !above.empty(); above = ParentOf(above)) {
    if (!names.contains(above)) {
      return nullptr;
    }
  }
  return view == View::kCached ? &found->second->cached : &found->second->durable;
}

std::vector<std::string> SimFileSystem::Files(View view) const {
  std::vector<std::string> files;
  for (const auto& [path, inode] : view == View::kCached ? names_ : durable_names_) {
    if (Find(path, view) != nullptr) {
      files.push_back(path);
    }
  }
  return files;
}

void SimFileSystem::FlipBit(const std::string& path, uint64_t bit) {
  Inode* inode = names_.at(path).get();
  const uint64_t at = bit / kBitsPerByte;
  GEMEL_CHECK_LT(at, inode->cached.size()) << path;
  for (std::string* bytes : {&inode->cached, &inode->durable}) {
    if (at < bytes->size()) {
      (*bytes)[at] = static_cast<char>((*bytes)[at] ^ (1 << (bit % kBitsPerByte)));
    }
  }
}

void SimFileSystem::Tear(const std::string& path, Random* random) {
  Inode* inode = names_.at(path).get();
  GEMEL_CHECK(!inode->is_directory && !inode->cached.empty()) << path;
  const size_t whole = random->Below(inode->cached.size());
  if (random->Chance(1, 2)) {
    inode->cached.resize(whole);
  }
  for (size_t i = whole; i < inode->cached.size(); ++i) {
    inode->cached[i] = static_cast<char>(inode->cached[i] ^ kTornMask);
  }
  inode->durable = inode->cached;
  inode->dirty.clear();
}

int SimFileSystem::WhyMissing(const std::string& path) const {
  GEMEL_CHECK(!names_.contains(path)) << path;
  for (std::string_view above = ParentOf(path); !above.empty(); above = ParentOf(above)) {
    const auto found = names_.find(std::string(above));
    if (found != names_.end()) {
      return found->second->is_directory ? ENOENT : ENOTDIR;
    }
  }
  return ENOENT;
}

int SimFileSystem::MayMake(const std::string& path) const {
  if (names_.contains(path)) {
    return EEXIST;
  }
  const auto parent = names_.find(std::string(ParentOf(path)));
  if (parent == names_.end()) {
    return WhyMissing(path);
  }
  return parent->second->is_directory ? 0 : ENOTDIR;
}

void SimFileSystem::Make(Change change) {
  Apply(change, &names_);
  journal_.push_back(std::move(change));
}

// Whether the disk is full, and counts that it was asked.
bool SimFileSystem::Refuse() {
  stats_.refused_full += full_ ? 1 : 0;
  return full_;
}

// True when nothing of `bytes` is left to write. Which file is hit is drawn; none: nothing but the
// lost write.
bool SimFileSystem::Misdirect(Inode* inode, uint64_t offset, ByteSpan bytes, Random* random) {
  const std::string spared = *std::exchange(misdirected_, std::nullopt);
  stats_.misdirected += 1;
  std::vector<Inode*> others;
  for (const auto& [path, other] : names_) {
    if (!other->durable.empty() && other.get() != inode && path != spared) {
      others.push_back(other.get());
    }
  }
  const size_t drawn = random->Below(others.size() + 1);
  if (drawn < others.size()) {
    for (std::string* hit : {&others[drawn]->cached, &others[drawn]->durable}) {
      const size_t count = std::min({bytes.size(), kBlockBytes, hit->size()});
      std::memcpy(hit->data(), bytes.data(), count);
    }
  }
  const bool all = bytes.size() <= kBlockBytes;
  inode->astray = all && offset == 0 && inode->durable.empty();
  return all;
}

int SimFileSystem::Write(Inode* inode, uint64_t offset, ByteSpan bytes, Random* random) {
  if (offset + bytes.size() > inode->cached.size()) {
    if (Refuse()) {
      return ENOSPC;
    }
    inode->cached.resize(offset + bytes.size());
  }
  size_t skipped = 0;
  if (misdirected_.has_value()) {
    skipped = Misdirect(inode, offset, bytes, random) ? bytes.size() : kBlockBytes;
  }
  const ByteSpan own = bytes.subspan(skipped);
  if (!own.empty()) {
    std::memcpy(inode->cached.data() + offset + skipped, own.data(), own.size());
  }
  for (uint64_t at = offset; at < offset + bytes.size(); at += kBlockBytes - at % kBlockBytes) {
    inode->dirty.insert(at / kBlockBytes);
  }
  return 0;
}

int SimFileSystem::Sync(const std::string& path, Inode* inode, Random* random) {
  if (syncs_failing_ > 0 && syncs_passed_ == 0) {
    syncs_failing_ -= 1;
    stats_.failed_syncs += 1;
    if (random->Chance(1, 2) && inode->cached != inode->durable) {
      inode->cached = inode->durable;
    }
    inode->dirty.clear();  // invariant (3)
    return EIO;
  }
  syncs_passed_ -= syncs_passed_ > 0 ? 1 : 0;
  if (inode->is_directory) {
    CommitDirectory(path);
  } else if (!inode->dirty.empty()) {
    inode->durable.resize(inode->cached.size());
    for (const size_t block : inode->dirty) {
      WriteBlock(block, inode);
    }
    inode->dirty.clear();
  }
  return 0;
}

void SimFileSystem::CommitDirectory(std::string_view path) {
  std::erase_if(journal_, [&](const Change& change) {
    const bool listed = ParentOf(change.from) == path || ParentOf(change.to) == path;
    if (listed) {
      Apply(change, &durable_names_);
    }
    return listed;
  });
}

SimFileCalls::SimFileCalls(SimFileSystem* files, Random random) : files_(files), random_(random) {
  GEMEL_CHECK(files_ != nullptr);
}

SimFileCalls::~SimFileCalls() {
  for (auto& [fd, descriptor] : descriptors_) {
    if (descriptor.inode->locked_by == this) {
      descriptor.inode->locked_by = nullptr;
    }
  }
}

bool SimFileCalls::Lives() {
  if (calls_left_.has_value() && *calls_left_ == 0) {
    errno = EIO;
    return false;
  }
  if (calls_left_.has_value()) {
    *calls_left_ -= 1;
  }
  return true;
}

SimFileCalls::Descriptor* SimFileCalls::Use(int fd) {
  if (!Lives()) {
    return nullptr;
  }
  const auto found = descriptors_.find(fd);
  GEMEL_CHECK(found != descriptors_.end()) << "descriptor " << fd << " is not open";
  return &found->second;
}

int SimFileCalls::Open(const std::string& path, int flags) {
  GEMEL_CHECK_EQ(flags & ~(O_ACCMODE | O_CREAT | O_EXCL | O_DIRECTORY), 0) << path;
  if (!Lives()) {
    return -1;
  }
  auto found = files_->names_.find(path);
  if (found == files_->names_.end() && (flags & O_CREAT) != 0) {
    if (const int refused = files_->MayMake(path); refused != 0) {
      return Failed(refused);
    }
    files_->Make({"", path, std::make_shared<SimFileSystem::Inode>()});
    found = files_->names_.find(path);
  } else if (found == files_->names_.end()) {
    return Failed(files_->WhyMissing(path));
  } else if ((flags & O_EXCL) != 0) {
    return Failed(EEXIST);
  }
  const bool is_directory = found->second->is_directory;
  if ((flags & O_DIRECTORY) != 0 && !is_directory) {
    return Failed(ENOTDIR);
  }
  if ((flags & O_ACCMODE) != O_RDONLY && is_directory) {
    return Failed(EISDIR);
  }
  descriptors_[next_fd_] = Descriptor{path, found->second, 0};
  return next_fd_++;
}

int SimFileCalls::Close(int fd) {
  const auto found = descriptors_.find(fd);
  GEMEL_CHECK(found != descriptors_.end()) << "descriptor " << fd << " is not open";
  if (found->second.inode->locked_by == this) {
    found->second.inode->locked_by = nullptr;
  }
  descriptors_.erase(found);
  return Lives() ? 0 : -1;
}

ssize_t SimFileCalls::Read(int fd, MutableByteSpan into) {
  Descriptor* descriptor = Use(fd);
  if (descriptor == nullptr) {
    return -1;
  }
  const std::string& bytes = descriptor->inode->cached;
  const uint64_t offset = std::min<uint64_t>(descriptor->offset, bytes.size());
  const size_t count = std::min<size_t>(into.size(), bytes.size() - offset);
  if (count > 0) {
    std::memcpy(into.data(), bytes.data() + offset, count);
  }
  descriptor->offset = offset + count;
  return static_cast<ssize_t>(count);
}

ssize_t SimFileCalls::Write(int fd, ByteSpan bytes) {
  Descriptor* descriptor = Use(fd);
  if (descriptor == nullptr) {
    return -1;
  }
  GEMEL_CHECK(!descriptor->inode->is_directory) << descriptor->path;
  const int error = files_->Write(descriptor->inode.get(), descriptor->offset, bytes, &random_);
  if (error != 0) {
    return Failed(error);
  }
  descriptor->offset += bytes.size();
  return static_cast<ssize_t>(bytes.size());
}

int SimFileCalls::Seek(int fd, uint64_t offset) {
  Descriptor* descriptor = Use(fd);
  if (descriptor == nullptr) {
    return -1;
  }
  descriptor->offset = offset;
  return 0;
}

int SimFileCalls::Sync(int fd) {
  Descriptor* descriptor = Use(fd);
  if (descriptor == nullptr) {
    return -1;
  }
  const int error = files_->Sync(descriptor->path, descriptor->inode.get(), &random_);
  return error == 0 ? 0 : Failed(error);
}

int SimFileCalls::Stat(int fd, struct stat* about) {
  const Descriptor* descriptor = Use(fd);
  if (descriptor == nullptr) {
    return -1;
  }
  *about = {};
  about->st_mode = descriptor->inode->is_directory ? S_IFDIR : S_IFREG;
  about->st_size = static_cast<off_t>(descriptor->inode->cached.size());
  return 0;
}

int SimFileCalls::LockAlone(int fd) {
  const Descriptor* descriptor = Use(fd);
  if (descriptor == nullptr) {
    return -1;
  }
  if (descriptor->inode->locked_by != nullptr) {
    return Failed(EWOULDBLOCK);
  }
  descriptor->inode->locked_by = this;
  return 0;
}

bool SimFileCalls::IsDirectory(const std::string& path) {
  const auto found = files_->names_.find(path);
  return Lives() && found != files_->names_.end() && found->second->is_directory;
}

int SimFileCalls::MakeDirectory(const std::string& path) {
  if (!Lives()) {
    return -1;
  }
  if (const int refused = files_->MayMake(path); refused != 0) {
    return Failed(refused);
  }
  if (files_->Refuse()) {
    return Failed(ENOSPC);
  }
  auto directory = std::make_shared<SimFileSystem::Inode>();
  directory->is_directory = true;
  files_->Make({"", path, std::move(directory)});
  return 0;
}

int SimFileCalls::Rename(const std::string& from, const std::string& to) {
  if (!Lives()) {
    return -1;
  }
  const auto source = files_->names_.find(from);
  if (source == files_->names_.end()) {
    return Failed(files_->WhyMissing(from));
  }
  const std::shared_ptr<SimFileSystem::Inode> inode = source->second;
  GEMEL_CHECK(!inode->is_directory) << from;
  const auto target = files_->names_.find(to);
  if (target != files_->names_.end() && target->second->is_directory) {
    return Failed(EISDIR);
  }
  const int refused = target == files_->names_.end() ? files_->MayMake(to) : 0;
  if (refused != 0) {
    return Failed(refused);
  }
  if (inode->astray) {
    files_->Make({from, "", nullptr});
  } else {
    files_->Make({from, to, inode});
  }
  return 0;
}

int SimFileCalls::Unlink(const std::string& path) {
  if (!Lives()) {
    return -1;
  }
  const auto found = files_->names_.find(path);
  if (found == files_->names_.end()) {
    return Failed(files_->WhyMissing(path));
  }
  if (found->second->is_directory) {
    return Failed(EISDIR);
  }
  files_->Make({path, "", nullptr});
  return 0;
}

int SimFileCalls::FilesBelow(const std::string& path, std::vector<std::string>* files) {
  if (!Lives()) {
    return -1;
  }
  const auto found = files_->names_.find(path);
  if (found == files_->names_.end()) {
    return Failed(files_->WhyMissing(path));
  }
  if (!found->second->is_directory) {
    return Failed(ENOTDIR);
  }
  const std::string below = path + "/";
  for (auto file = files_->names_.lower_bound(below);
       file != files_->names_.end() && file->first.starts_with(below); ++file) {
    if (!file->second->is_directory) {
      files->push_back(file->first);
    }
  }
  return 0;
}

}  // namespace gemel
