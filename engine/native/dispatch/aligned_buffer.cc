#include "dispatch/aligned_buffer.h"

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <cstdint>
#include <new>

namespace lazyneuron {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

#ifdef __linux__
// Errors are of no account: it is advice.
void advise(std::uintptr_t begin, std::uintptr_t end, int advice) {
    if (begin < end) static_cast<void>(madvise(reinterpret_cast<void*>(begin), end - begin, advice));
}
#endif

}  // namespace

AlignedBuffer::AlignedBuffer(std::size_t bytes, std::size_t alignment)
    : data_(static_cast<char*>(::operator new(bytes, std::align_val_t{alignment})), Free{alignment}),
      bytes_(bytes) {}

AlignedBuffer AlignedBuffer::in_huge_pages(std::size_t bytes) {
    if (bytes < kHugePage) return AlignedBuffer(bytes);
    AlignedBuffer buffer(bytes, kHugePage);
#ifdef __linux__
    const auto begin = reinterpret_cast<std::uintptr_t>(buffer.data());
    advise(begin, begin + bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
    return buffer;
}

void AlignedBuffer::Free::operator()(char* data) const {
    ::operator delete(data, std::align_val_t{alignment});
}

void let_go([[maybe_unused]] const void* data, [[maybe_unused]] std::size_t bytes) {
#ifdef MADV_PAGEOUT
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<std::uintptr_t>(data);
    advise((begin + page - 1) / page * page, (begin + bytes) / page * page, MADV_PAGEOUT);
#endif
}

}  // namespace lazyneuron
