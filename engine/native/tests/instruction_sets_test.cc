// The list of instruction sets and the choice among them.
#include "dispatch/instruction_sets.h"

#include "testing.h"

int main() {
    using namespace lazyneuron;
    std::printf("supported: %s\n", supported_names().c_str());
    CHECK(instruction_sets().front().supported, "the first is scalar, which every machine has");
    CHECK(find_supported("scalar") == &instruction_sets().front(), "scalar");
    CHECK(find_supported("") == nullptr && find_supported("AVX2") == nullptr, "unknown names");
    const std::string best = best_instruction_set().name;
    CHECK(supported_names().compare(0, best.size(), best) == 0, "the best is listed first");
    CHECK(find_supported(best) == &best_instruction_set(), best);
    for (const InstructionSet& set : instruction_sets()) {
        CHECK(set.supported == (find_supported(set.name) != nullptr), set.name);
    }
    return testing::result();
}
