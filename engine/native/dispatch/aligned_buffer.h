// A block of bytes that starts on a cache line.
#pragma once

#include <cstddef>
#include <memory>

namespace lazyneuron {

constexpr std::size_t kScratchAlignment = 64;  // a cache line

class AlignedBuffer {
 public:
    AlignedBuffer() = default;
    explicit AlignedBuffer(std::size_t bytes) : AlignedBuffer(bytes, kScratchAlignment) {}
    // Asks for huge pages, as far as whole ones fit: for weights, which are read in no order.
    static AlignedBuffer in_huge_pages(std::size_t bytes);

    std::size_t size() const { return bytes_; }
    char* data() const { return data_.get(); }

 private:
    AlignedBuffer(std::size_t bytes, std::size_t alignment);
    struct Free {
        std::size_t alignment;
        void operator()(char* data) const;
    };
    std::unique_ptr<char[], Free> data_{nullptr, Free{kScratchAlignment}};
    std::size_t bytes_ = 0;
};

// Tells the system that these bytes will hardly be read again: what a file backs need not stay in memory.
// Changes nothing in them.
void let_go(const void* data, std::size_t bytes);

}  // namespace lazyneuron
