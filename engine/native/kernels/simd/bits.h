// The set bits of a word as a list, for instruction sets that have nothing better.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lazyneuron::LAZYNEURON_TARGET {
namespace {

// Writes first + n for each set bit n; returns how many.
inline std::size_t list_bits(std::uint64_t bits, std::int32_t first, std::int32_t* index) {
    std::size_t written = 0;
    for (; bits != 0; bits &= bits - 1)
        index[written++] = first + static_cast<std::int32_t>(__builtin_ctzll(bits));
    return written;
}

}  // namespace
}  // namespace lazyneuron::LAZYNEURON_TARGET
