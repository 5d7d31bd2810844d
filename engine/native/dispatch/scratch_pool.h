// Memory that calls borrow and give back, so that a call allocates nothing once the pool has grown to it.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "dispatch/aligned_buffer.h"

namespace lazyneuron {

// Calls that run at the same time get different blocks; the pool holds as many as ever ran at once.
class ScratchPool {
 public:
    // Gives its block back when it goes out of scope.
    class Lease {
     public:
        Lease(ScratchPool& pool, std::size_t bytes) : pool_(pool), buffer_(pool.take(bytes)) {}
        ~Lease() { pool_.put(std::move(buffer_)); }
        Lease(const Lease&) = delete;
        Lease& operator=(const Lease&) = delete;
        char* data() const { return buffer_.data(); }

     private:
        ScratchPool& pool_;
        AlignedBuffer buffer_;
    };

    // The pool that all kernels of the process share: the layers of a model run one after another and so need
    // one block between them. It goes when the last kernel does.
    static std::shared_ptr<ScratchPool> shared();

 private:
    AlignedBuffer take(std::size_t bytes);
    void put(AlignedBuffer buffer) noexcept;

    std::mutex mutex_;
    std::vector<AlignedBuffer> free_;  // the last given back is the first taken: it is warm, and large enough
    std::size_t lent_ = 0;
};

}  // namespace lazyneuron
