// The table of compiled kernels: what is read, what is refused and in which words; and how a driver is
// opened.
#include <cstdlib>
#include <fstream>

#include "cuda/down.h"
#include "cuda/driver.h"
#include "cuda/kernel_table.h"
#include "cuda/launch.h"
#include "tests/testing.h"

using namespace lazyneuron;
using namespace lazyneuron::testing;
using cuda::KernelTable;

namespace {

const std::string kHeader = "lazyneuron-gpu-kernels 1\n";
const std::string kSelect =
    "select the_entry 4 49152 16 32 64 128 2 *f32,*i32,i32,f32 rows,column_tiles,splits";

void check_refused(const std::string& text, const std::string& expected) {
    const std::string message = message_of([&] { KernelTable::parse(text, "/folder/kernels.txt"); });
    CHECK(message == "/folder/kernels.txt " + expected, message);
}

void test_reading() {
    const KernelTable table =
        KernelTable::parse(kHeader + "# triton 3.9.0\n\n" + kSelect + "\n", "/folder/kernels.txt");
    const cuda::KernelSpec& kernel = table.find("select");
    CHECK(table.kernels().size() == 1 && kernel.entry == "the_entry" && kernel.warps == 4, kernel.entry);
    CHECK(kernel.shared_bytes == 49152 && kernel.block_rows == 16 && kernel.block_neurons == 32, "sizes");
    CHECK(kernel.block_depth == 64 && kernel.block_columns == 128 && kernel.hidden == 2, "sizes");
    CHECK(kernel.signature == "*f32,*i32,i32,f32", kernel.signature);
    const cuda::GridSizes sizes{17, 33, 129, 8};
    CHECK(cuda::blocks(kernel.grid[0], kernel, sizes) == 17, "rows");
    CHECK(cuda::blocks(kernel.grid[1], kernel, sizes) == 2, "column tiles");
    CHECK(cuda::blocks(kernel.grid[2], kernel, sizes) == 8, "splits");
    CHECK(cuda::blocks(cuda::GridRule::kRowTiles, kernel, sizes) == 2, "row tiles");
    CHECK(cuda::blocks(cuda::GridRule::kNeuronTiles, kernel, sizes) == 2, "neuron tiles");
    CHECK(cuda::blocks(cuda::GridRule::kOne, kernel, sizes) == 1, "one");
}

std::string with_field(std::size_t field, const std::string& value) {
    std::string line;
    std::size_t at = 0;
    for (std::size_t i = 0; at <= kSelect.size(); ++i) {
        const std::size_t end = std::min(kSelect.find(' ', at), kSelect.size());
        line += (i == 0 ? "" : " ") + (i == field ? value : kSelect.substr(at, end - at));
        at = end + 1;
    }
    return kHeader + line + "\n";
}

void test_refusals() {
    check_refused("", "begins with '', expected 'lazyneuron-gpu-kernels 1'");
    check_refused("lazyneuron-gpu-kernels 2\n" + kSelect,
                  "begins with 'lazyneuron-gpu-kernels 2', expected 'lazyneuron-gpu-kernels 1'");
    check_refused(kHeader + "# nothing\n", "names no kernel");
    check_refused(kHeader + "select entry 4\n", "line 2 has 3 fields, expected 11");
    check_refused(kHeader + kSelect + "\n" + kSelect + "\n",
                  "line 3 names the kernel 'select' a second time");
    check_refused(with_field(0, ""), "line 2 has no name");
    check_refused(with_field(0, "../etc/passwd"), "line 2 names a kernel '../etc/passwd', expected no path");
    check_refused(with_field(1, ""), "line 2 has no entry");
    check_refused(with_field(2, "0"), "line 2 has '0' warps, expected 1 to 32");
    check_refused(with_field(2, "four"), "line 2 has 'four' warps, expected 1 to 32");
    check_refused(with_field(3, "-1"), "line 2 has '-1' shared bytes, expected 0 to 1048576");
    check_refused(with_field(5, "99999999999"),
                  "line 2 has '99999999999' block neurons, expected 0 to 65536");
    check_refused(with_field(8, "17"), "line 2 has '17' hidden parameters, expected 0 to 16");
    check_refused(with_field(9, "*f32,*f64"),
                  "line 2 has a parameter of type '*f64', expected *f32, *f16, *bf16, *i8, *i32, i32 or f32");
    check_refused(with_field(10, "rows,1"), "line 2 has the grid 'rows,1', expected three words");
    check_refused(with_field(10, "rows,1,many"),
                  "line 2 has the word 'many' in its grid, expected 1, rows, row_tiles, neuron_tiles, "
                  "column_tiles or splits");
    check_refused(kHeader + "select entry 4 0 0 0 0 0 2 *f32 row_tiles,1,1\n",
                  "line 2 has row_tiles in its grid and a block size of 0 for them");
}

// Random bytes are a table or a refusal, nothing else.
void test_noise() {
    std::mt19937 random(1);
    for (int i = 0; i < 2000; ++i) {
        std::string text = kHeader + kSelect + "\n";
        for (int change = 0; change < 3; ++change)
            text[random() % text.size()] = static_cast<char>(random() % 128);
        try {
            KernelTable::parse(text, "noise");
        } catch (const cuda::TableError&) {
        }
    }
}

void test_images(const std::string& folder) {
    const auto write = [&](const std::string& name, const std::string& text) {
        std::ofstream(folder + "/" + name) << text;
    };
    std::remove((folder + "/kernels.txt").c_str());
    std::string message = message_of([&] { KernelTable::read(folder); });
    CHECK(message == folder +
                         "/kernels.txt cannot be read; expected the compiled kernels there, so install "
                         "lazyneuron again",
          message);
    write("kernels.txt", kHeader + kSelect + "\n");
    std::remove((folder + "/select.ptx").c_str());
    std::remove((folder + "/select.sm_90.cubin").c_str());
    const KernelTable table = KernelTable::read(folder);
    message = message_of([&] { table.image(table.kernels()[0], 9, 0); });
    CHECK(message == folder + "/select.ptx cannot be read or is empty; install lazyneuron again", message);
    write("select.ptx", "for all");
    write("select.sm_90.cubin", "for one");
    CHECK(table.image(table.kernels()[0], 9, 0) == "for one", "the device's own");
    CHECK(table.image(table.kernels()[0], 8, 6) == "for all", "the common one");
    message = message_of([&] { table.find("down.f16"); });
    CHECK(message == folder +
                         "/kernels.txt has no kernel 'down.f16'; it is of another version of lazyneuron, so "
                         "install it again",
          message);
}

void test_down_path() {
    unsetenv("LAZYNEURON_GPU_DOWN");
    CHECK(cuda::choose_down_path() == cuda::DownPath::kRows, "the default");
    setenv("LAZYNEURON_GPU_DOWN", "tiles", 1);
    CHECK(cuda::choose_down_path() == cuda::DownPath::kTiles, "forced");
    setenv("LAZYNEURON_GPU_DOWN", "both", 1);
    const std::string message = message_of([] { cuda::choose_down_path(); });
    CHECK(message == "the environment variable LAZYNEURON_GPU_DOWN is 'both', expected rows or tiles",
          message);
    unsetenv("LAZYNEURON_GPU_DOWN");
}

void test_opening_a_driver() {
    const cuda::OpenedDriver missing = cuda::open_driver("libno-such-driver.so.1");
    CHECK(missing.why_none.find("there is no NVIDIA driver: libno-such-driver.so.1") == 0, missing.why_none);
    const cuda::OpenedDriver other = cuda::open_driver("libm.so.6");
    CHECK(other.why_none == "libm.so.6 has no function cuInit, expected a newer NVIDIA driver",
          other.why_none);
    CHECK(&cuda::machine_driver() == &cuda::machine_driver(), "opened once");
}

}  // namespace

int main(int, char** arguments) {
    test_reading();
    test_refusals();
    test_noise();
    test_images(arguments[1]);
    test_down_path();
    test_opening_a_driver();
    return result();
}
