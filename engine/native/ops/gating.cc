#include "ops/gating.h"

#include <cmath>
#include <cstdlib>

namespace lazyneuron {
namespace {

struct NamedActivation {
    const char* name;
    Activation activation;
};
constexpr NamedActivation kActivations[] = {
    {"relu", Activation::kRelu},          {"relu2", Activation::kRelu2}, {"gelu", Activation::kGelu},
    {"gelu_tanh", Activation::kGeluTanh}, {"silu", Activation::kSilu},   {"identity", Activation::kIdentity},
};

Activation parse_activation(const std::string& name) {
    std::string names;
    for (const NamedActivation& known : kActivations) {
        if (name == known.name) return known.activation;
        names += (names.empty() ? "" : ", ") + std::string(known.name);
    }
    throw Refusal("attribute 'activation' is '" + name + "', expected one of " + names);
}

}  // namespace

SparseDownOptions read_gating(const Node& node) {
    SparseDownOptions options;
    options.activation = parse_activation(node.attribute("activation", "relu"));
    const std::int64_t top_k = node.attribute("top_k", std::int64_t{0});
    if (top_k < 0) {
        throw Refusal("attribute 'top_k' is " + std::to_string(top_k) +
                      ", expected 0 (no cap) or the most neurons to keep in a row");
    }
    options.top_k = static_cast<std::size_t>(top_k);
    options.threshold = node.attribute("threshold", 0.0f);
    if (!std::isfinite(options.threshold) || options.threshold < 0.0f) {
        throw Refusal("attribute 'threshold' is " + std::to_string(options.threshold) +
                      ", expected a finite number that is not negative");
    }
    return options;
}

void check_top_k(const SparseDownOptions& options, std::int64_t neurons) {
    if (neurons >= 0 && options.top_k > static_cast<std::size_t>(neurons)) {
        throw Refusal("attribute 'top_k' is " + std::to_string(options.top_k) +
                      ", expected at most F = " + std::to_string(neurons) + ", the number of neurons");
    }
}

const InstructionSet& choose_instruction_set(const Node& node) {
    const char* forced = std::getenv("LAZYNEURON_ISA");
    const InstructionSet* set = &best_instruction_set();
    if (forced != nullptr && *forced != '\0') set = find_supported(forced);
    if (set == nullptr) {
        throw Refusal("the environment variable LAZYNEURON_ISA is '" + std::string(forced) +
                      "', expected one that this machine supports: " + supported_names());
    }
    node.log(ORT_LOGGING_LEVEL_INFO,
             "runs on the " + std::string(set->name) + " kernels (" + set->description + ")");
    return *set;
}

}  // namespace lazyneuron
