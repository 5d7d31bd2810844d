#include "dispatch/scratch_pool.h"

#include <algorithm>
#include <utility>

namespace lazyneuron {

std::shared_ptr<ScratchPool> ScratchPool::shared() {
    static std::mutex mutex;
    static std::weak_ptr<ScratchPool> pool;
    const std::lock_guard<std::mutex> lock(mutex);
    std::shared_ptr<ScratchPool> alive = pool.lock();
    if (!alive) pool = alive = std::make_shared<ScratchPool>();
    return alive;
}

AlignedBuffer ScratchPool::take(std::size_t bytes) {
    AlignedBuffer buffer;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        free_.reserve(std::max<std::size_t>(free_.size(), 1) +
                      lent_);  // all blocks, so that put never allocates
        if (!free_.empty()) {
            buffer = std::move(free_.back());
            free_.pop_back();
        }
        ++lent_;
    }
    if (buffer.size() >= bytes) return buffer;
    buffer = {};  // first free, then allocate: the peak is lower
    try {
        return AlignedBuffer(bytes);
    } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex_);
        --lent_;
        throw;
    }
}

void ScratchPool::put(AlignedBuffer buffer) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    --lent_;
    free_.push_back(std::move(buffer));
}

}  // namespace lazyneuron
