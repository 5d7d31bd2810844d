// One pass over a row: bias, activation, threshold, compaction. Then top-k on what is left.
#include "kernels/activations.h"
#include "kernels/targets.h"

namespace lazyneuron::LAZYNEURON_TARGET {
namespace {

// A row's kept neurons, in ascending order of their index.
struct Kept {
    std::int32_t* index;
    float* value;
    std::size_t count;
};

template <class Act>
inline Mask active(Float value, Float threshold) {
    return greater(Act::kSigned ? magnitude(value) : value, threshold);
}

// Returns false if any value of the row is a NaN.
template <class Act, bool HasBias>
bool compact(const SelectArguments& a, Kept& kept) {
    const Float threshold = broadcast(a.threshold);
    const Int step = broadcast_int(static_cast<std::int32_t>(kLanes));
    Int index = lane_numbers();
    Mask nan = no_lanes();
    std::size_t f = 0;
    for (; f + kLanes <= a.neurons; f += kLanes) {
        Float x = load(a.pre + f);
        if (HasBias) x = add(x, load(a.up_bias + f));
        const Float value = Act::apply(x);
        nan = either(nan, is_nan(value));
        kept.count += compress(active<Act>(value, threshold), value, index, kept.value + kept.count,
                               kept.index + kept.count);
        index = add_int(index, step);
    }
    if (const std::size_t rest = a.neurons - f) {
        Float x = load_partial(a.pre + f, rest);
        if (HasBias) x = add(x, load_partial(a.up_bias + f, rest));
        const Float value = Act::apply(x);
        const Mask valid = first_lanes(rest);
        nan = either(nan, both(valid, is_nan(value)));
        kept.count += compress(both(valid, active<Act>(value, threshold)), value, index,
                               kept.value + kept.count, kept.index + kept.count);
    }
    return !any(nan);
}

template <class Act>
bool compact(const SelectArguments& a, Kept& kept) {
    return a.up_bias != nullptr ? compact<Act, true>(a, kept) : compact<Act, false>(a, kept);
}

bool compact(const SelectArguments& a, Kept& kept) {
    switch (a.activation) {
        case Activation::kRelu:
            return compact<Relu>(a, kept);
        case Activation::kRelu2:
            return compact<Relu2>(a, kept);
        case Activation::kGelu:
            return compact<Gelu>(a, kept);
        case Activation::kGeluTanh:
            return compact<GeluTanh>(a, kept);
        case Activation::kSilu:
            return compact<Silu>(a, kept);
        case Activation::kIdentity:
            break;
    }
    return compact<Identity>(a, kept);
}

// Magnitudes are compared by their bits: for floats without sign and NaN the integers' order is the floats'.
std::size_t count_above(const Kept& kept, std::int32_t key) {
    const Int limit = broadcast_int(key);
    std::size_t above = 0, i = 0;
    for (; i + kLanes <= kept.count; i += kLanes) {
        above += count(greater_int(magnitude_bits(load(kept.value + i)), limit));
    }
    const Float rest = load_partial(kept.value + i, kept.count - i);  // zeros after the end: above no key
    return above + count(greater_int(magnitude_bits(rest), limit));
}

// Packs the neurons whose magnitude is above the key to the front. Writing never overtakes reading.
void keep_above(Kept& kept, std::int32_t key) {
    const Int limit = broadcast_int(key);
    std::size_t written = 0;
    for (std::size_t i = 0; i < kept.count; i += kLanes) {
        const std::size_t left = kept.count - i;
        const Float value = load(kept.value + i);  // the lists have room for whole vectors
        Mask above = greater_int(magnitude_bits(value), limit);
        if (left < kLanes) above = both(above, first_lanes(left));
        written +=
            compress(above, value, load_int(kept.index + i), kept.value + written, kept.index + written);
    }
    kept.count = written;
}

// The same with the first `ties` of the neurons whose magnitude equals the key.
void keep_above_and_ties(Kept& kept, std::int32_t key, std::size_t ties) {
    std::size_t written = 0;
    for (std::size_t i = 0; i < kept.count; ++i) {
        const float value = kept.value[i];
        std::int32_t bits;
        __builtin_memcpy(&bits, &value, sizeof bits);
        bits &= 0x7FFFFFFF;
        const bool tie = bits == key && ties > 0;
        ties -= tie;
        kept.value[written] = value;
        kept.index[written] = kept.index[i];
        written += bits > key || tie;
    }
    kept.count = written;
}

// Top-k by bisection on the key: each step counts the list once, with vectors, and a step that finds exactly
// `keep` ends the search, after about log2(count) steps. No sorting, no pivots, so no bad inputs either.
void keep_largest(Kept& kept, std::size_t keep) {
    std::int32_t low = 0;            // more than `keep` are above it (actives are above zero)
    std::int32_t high = 0x7F800000;  // infinity: fewer than or just `keep` are above it
    std::size_t above_high = 0;
    while (high - low > 1) {
        const std::int32_t middle = low + (high - low) / 2;
        const std::size_t above = count_above(kept, middle);
        if (above == keep) return keep_above(kept, middle);
        if (above > keep) {
            low = middle;
        } else {
            high = middle;
            above_high = above;
        }
    }
    keep_above_and_ties(kept, high, keep - above_high);
}

}  // namespace

std::int32_t select(const SelectArguments& a, std::int32_t* index, float* coefficient) {
    Kept kept{index, coefficient, 0};
    if (!compact(a, kept)) return kPoisoned;
    if (kept.count > a.keep) keep_largest(kept, a.keep);
    if (a.scale != nullptr) {
        for (std::size_t i = 0; i < kept.count; ++i) coefficient[i] *= a.scale[index[i]];
    }
    return static_cast<std::int32_t>(kept.count);
}

}  // namespace lazyneuron::LAZYNEURON_TARGET
