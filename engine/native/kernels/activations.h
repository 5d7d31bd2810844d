// The activations, vectorised. Every lane is computed alike, so a value depends neither on its position nor
// on its neighbours. The coefficients come from fit_activations.py, which prints these lines.
//
// Measured against float64 where the result is a normal float: silu 3 ulp, gelu 5 (9 where it is below
// 1e-36). gelu_tanh keeps 20 for |x| < 4; further down, where the value is below 1e-4, the rounding of its
// exponent 2u costs up to 2|u| ulp: 200 at the very end, where it is below 1e-35.
#pragma once

#include "kernels/kernels.h"
#include LAZYNEURON_SIMD_HEADER

namespace lazyneuron::LAZYNEURON_TARGET {
namespace {

constexpr float kLn2High = 0.693145752f, kLn2Low = 1.42860677e-06f;
constexpr float kExp[] = {0.499999940f, 0.166665152f, 0.0416684560f, 0.00836941879f, 0.00138131424f};
constexpr float kTail[] = {0.729083717f,     -0.509332180f,  0.230017692f,   -0.0472581536f,
                           -0.0104622589f,   0.00693733105f, 0.00101639051f, -0.000946830551f,
                           -0.000202965515f, 5.24014395e-05f};
constexpr float kTailCentre = 3.0f;
constexpr float kExpUnderflow = -104.0f;  // below this, exp rounds to zero even among the subnormals

template <std::size_t N>
inline Float polynomial(const float (&coefficients)[N], Float x) {
    Float sum = broadcast(coefficients[N - 1]);
    for (std::size_t i = N - 1; i-- > 0;) sum = multiply_add(sum, x, broadcast(coefficients[i]));
    return sum;
}

// exp(high + low) for high <= 0 and |low| much below one. The split lets a caller pass an exponent more
// exactly than one float holds it. The power of two is applied in halves, so that subnormal results are
// rounded once.
inline Float exp_negative(Float high, Float low) {
    const Mask tiny = greater(broadcast(kExpUnderflow), high);
    const Float x = maximum(high, broadcast(kExpUnderflow));
    const Int n = round_to_int(multiply(x, broadcast(1.44269504f)));
    const Float steps = to_float(n);
    Float r = subtract(x, multiply(steps, broadcast(kLn2High)));  // exact: kLn2High has 15 bits
    r = add(subtract(r, multiply(steps, broadcast(kLn2Low))), low);
    const Float tail = multiply_add(multiply(r, r), polynomial(kExp, r), r);
    const Float significand = add(broadcast(1.0f), tail);
    const Int half = half_int(n);
    const Float scaled = multiply(significand, power_of_two(half));
    return choose(tiny, broadcast(0.0f), multiply(scaled, power_of_two(subtract_int(n, half))));
}

// 1 / (1 + exp(-z)), without overflow and without losing the negative tail.
inline Float sigmoid(Float z) {
    const Float one = broadcast(1.0f);
    const Float e = exp_negative(subtract(broadcast(0.0f), magnitude(z)), broadcast(0.0f));
    return divide(choose(greater(broadcast(0.0f), z), e, one), add(one, e));
}

// The normal distribution function. Its tail, 0.5 erfc(x / sqrt 2) for x >= 0, is
// exp(-x^2 / 2) * p((x - k) / (x + k)) / (x + k): computed as a tail it has no cancellation. x^2 / 2 is split
// in two, because near its end (x = 14) an ulp of it is worth a hundred ulp of the result.
inline Float normal_distribution(Float x) {
    const Float a = choose(greater(broadcast(15.0f), magnitude(x)), magnitude(x), broadcast(15.0f));
    const Float lead = leading_bits(a);
    const Float half = broadcast(-0.5f);
    const Float high = multiply(half, multiply(lead, lead));
    const Float low = multiply(half, multiply(subtract(a, lead), add(a, lead)));
    const Float inverse = divide(broadcast(1.0f), add(a, broadcast(kTailCentre)));
    const Float s = multiply(subtract(a, broadcast(kTailCentre)), inverse);
    const Float tail = multiply(multiply(polynomial(kTail, s), inverse), exp_negative(high, low));
    return choose(greater(broadcast(0.0f), x), tail, subtract(broadcast(1.0f), tail));
}

// Each activation says how to compute a value, and whether neurons are compared by |value| or by value.
struct Relu {
    static constexpr bool kSigned = false;
    static Float apply(Float x) { return at_least_zero(x); }
};
struct Relu2 {
    static constexpr bool kSigned = false;
    static Float apply(Float x) {
        const Float positive = at_least_zero(x);
        return multiply(positive, positive);
    }
};
struct Gelu {
    static constexpr bool kSigned = true;
    static Float apply(Float x) { return multiply(x, normal_distribution(x)); }
};
struct GeluTanh {
    static constexpr bool kSigned = true;
    // 0.5 x (1 + tanh u) = x sigmoid(2u) with u = sqrt(2 / pi) (x + 0.044715 x^3).
    static Float apply(Float x) {
        const Float cubic = multiply_add(multiply(x, x), broadcast(0.0713548163f), broadcast(1.59576912f));
        return multiply(x, sigmoid(multiply(x, cubic)));
    }
};
struct Silu {
    static constexpr bool kSigned = true;
    static Float apply(Float x) { return multiply(x, sigmoid(x)); }
};
struct Identity {
    static constexpr bool kSigned = true;
    static Float apply(Float x) { return x; }
};

}  // namespace
}  // namespace lazyneuron::LAZYNEURON_TARGET
