#include "cuda/kernel_table.h"

#include <dlfcn.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>

namespace lazyneuron::cuda {
namespace {

constexpr const char* kHeader = "lazyneuron-gpu-kernels 1";
constexpr std::size_t kFields = 11;
constexpr int kMostThreads = 1024, kMostSharedBytes = 1 << 20, kLargestBlock = 1 << 16, kMostHidden = 16;

std::vector<std::string> split(const std::string& text, char separator) {
    std::vector<std::string> parts;
    std::stringstream stream(text);
    for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
    if (!text.empty() && text.back() == separator) parts.emplace_back();
    return parts;
}

// One line of the table; what is wrong with it is told with its place.
class Line {
 public:
    Line(std::string place, const std::string& text) : place_(std::move(place)), fields_(split(text, ' ')) {
        if (fields_.size() != kFields) {
            refuse("has " + std::to_string(fields_.size()) + " fields, expected " + std::to_string(kFields));
        }
    }

    KernelSpec kernel() const {
        KernelSpec spec;
        spec.name = word(0, "name");
        if (spec.name.find('/') != std::string::npos)
            refuse("names a kernel '" + spec.name + "', expected no path");
        spec.entry = word(1, "entry");
        spec.warps = number(2, "warps", 1, kMostThreads / 32);
        spec.shared_bytes = number(3, "shared bytes", 0, kMostSharedBytes);
        spec.block_rows = number(4, "block rows", 0, kLargestBlock);
        spec.block_neurons = number(5, "block neurons", 0, kLargestBlock);
        spec.block_depth = number(6, "block depth", 0, kLargestBlock);
        spec.block_columns = number(7, "block columns", 0, kLargestBlock);
        spec.hidden = number(8, "hidden parameters", 0, kMostHidden);
        spec.signature = word(9, "signature");
        for (const std::string& type : split(spec.signature, ',')) check_type(type);
        const std::vector<std::string> rules = split(fields_[10], ',');
        if (rules.size() != 3) refuse("has the grid '" + fields_[10] + "', expected three words");
        for (std::size_t i = 0; i < 3; ++i) spec.grid[i] = rule(rules[i], spec);
        return spec;
    }

    [[noreturn]] void refuse(const std::string& what) const { throw TableError(place_ + " " + what); }

 private:
    const std::string& word(std::size_t i, const char* what) const {
        if (fields_[i].empty()) refuse("has no " + std::string(what));
        return fields_[i];
    }

    int number(std::size_t i, const char* what, int least, int most) const {
        const std::string& text = fields_[i];
        int value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error != std::errc() || end != text.data() + text.size() || value < least || value > most) {
            refuse("has '" + text + "' " + what + ", expected " + std::to_string(least) + " to " +
                   std::to_string(most));
        }
        return value;
    }

    void check_type(const std::string& type) const {
        static const char* const known[] = {"*f32", "*f16", "*bf16", "*i8", "*i32", "i32", "f32"};
        const bool found =
            std::any_of(std::begin(known), std::end(known), [&](const char* k) { return type == k; });
        if (!found)
            refuse("has a parameter of type '" + type +
                   "', expected *f32, *f16, *bf16, *i8, *i32, i32 or f32");
    }

    GridRule rule(const std::string& text, const KernelSpec& spec) const {
        struct Named {
            const char* name;
            GridRule rule;
            int block;  // a size by which the rule divides, which must not be 0
        };
        const Named rules[] = {{"1", GridRule::kOne, 1},
                               {"rows", GridRule::kRows, 1},
                               {"row_tiles", GridRule::kRowTiles, spec.block_rows},
                               {"neuron_tiles", GridRule::kNeuronTiles, spec.block_neurons},
                               {"column_tiles", GridRule::kColumnTiles, spec.block_columns},
                               {"splits", GridRule::kSplits, 1}};
        for (const Named& named : rules) {
            if (text != named.name) continue;
            if (named.block == 0) refuse("has " + text + " in its grid and a block size of 0 for them");
            return named.rule;
        }
        refuse("has the word '" + text +
               "' in its grid, expected 1, rows, row_tiles, neuron_tiles, column_tiles or splits");
    }

    const std::string place_;
    const std::vector<std::string> fields_;
};

// The file's bytes; false if it cannot be read.
bool read_file(const std::string& path, std::string& bytes) {
    std::ifstream file(path, std::ios::binary);
    if (!file) return false;
    bytes.assign(std::istreambuf_iterator<char>(file), {});
    return !file.bad();
}

}  // namespace

KernelTable KernelTable::parse(const std::string& text, const std::string& path) {
    KernelTable table;
    table.path_ = path;
    table.folder_ = path.substr(0, path.find_last_of('/') + 1);
    std::istringstream lines(text);
    std::string line;
    std::getline(lines, line);
    if (line != kHeader) {
        throw TableError(path + " begins with '" + line.substr(0, 60) + "', expected '" + kHeader + "'");
    }
    for (std::size_t number = 2; std::getline(lines, line); ++number) {
        if (line.empty() || line[0] == '#') continue;
        const Line parsed(path + " line " + std::to_string(number), line);
        KernelSpec kernel = parsed.kernel();
        for (const KernelSpec& other : table.kernels_) {
            if (other.name == kernel.name)
                parsed.refuse("names the kernel '" + kernel.name + "' a second time");
        }
        table.kernels_.push_back(std::move(kernel));
    }
    if (table.kernels_.empty()) throw TableError(path + " names no kernel");
    return table;
}

KernelTable KernelTable::read(const std::string& folder) {
    const std::string path = folder + "/kernels.txt";
    std::string text;
    if (!read_file(path, text)) {
        throw TableError(path +
                         " cannot be read; expected the compiled kernels there, so install lazyneuron again");
    }
    return parse(text, path);
}

const KernelSpec& KernelTable::find(const std::string& name) const {
    for (const KernelSpec& kernel : kernels_) {
        if (kernel.name == name) return kernel;
    }
    throw TableError(path_ + " has no kernel '" + name +
                     "'; it is of another version of lazyneuron, so install it again");
}

std::string KernelTable::image(const KernelSpec& kernel, int major, int minor) const {
    std::string bytes;
    const std::string base = folder_ + kernel.name;
    if (read_file(base + ".sm_" + std::to_string(major) + std::to_string(minor) + ".cubin", bytes))
        return bytes;
    if (read_file(base + ".ptx", bytes) && !bytes.empty()) return bytes;
    throw TableError(base + ".ptx cannot be read or is empty; install lazyneuron again");
}

std::string compiled_folder() {
    Dl_info info{};
    static const char anchor = 0;
    if (dladdr(&anchor, &info) == 0 || info.dli_fname == nullptr) {
        throw TableError("the operator library cannot tell where it lies, so its GPU kernels are not found");
    }
    const std::string library = info.dli_fname;
    const std::size_t slash = library.find_last_of('/');
    return (slash == std::string::npos ? "." : library.substr(0, slash)) + "/../gpu/compiled";
}

}  // namespace lazyneuron::cuda
