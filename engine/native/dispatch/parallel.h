// Work on many threads. Whose threads they are is the caller's affair.
#pragma once

#include <algorithm>
#include <cstddef>

namespace lazyneuron {

// Runs work(0) ... work(total - 1) in any order, perhaps at the same time.
class ParallelFor {
 public:
    using Work = void (*)(void* context, std::size_t index);
    virtual void run(std::size_t total, Work work, void* context) const = 0;

 protected:
    ~ParallelFor() = default;
};

// Calls work(begin, end) over [0, total) in chunks, on this thread if there is just one.
template <class Work>
void for_chunks(const ParallelFor& parallel, std::size_t total, std::size_t chunk, const Work& work) {
    const std::size_t tasks = (total + chunk - 1) / chunk;
    if (tasks <= 1) return work(0, total);
    struct Context {
        const Work* work;
        std::size_t total, chunk;
    } context{&work, total, chunk};
    parallel.run(
        tasks,
        [](void* raw, std::size_t task) {
            const Context& c = *static_cast<const Context*>(raw);
            const std::size_t begin = task * c.chunk;
            (*c.work)(begin, std::min(c.total, begin + c.chunk));
        },
        &context);
}

}  // namespace lazyneuron
