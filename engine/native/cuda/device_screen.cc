#include "cuda/device_screen.h"

#include <algorithm>

#include "dispatch/workspace.h"

namespace lazyneuron::cuda {
namespace {

// Everything in one piece, so that it is one allocation and one copy. The same layout on the host and the
// device.
struct Layout {
    Layout(char* memory, const Screen& screen, const ScreenTerms& terms) {
        Carver carve(memory);
        codes = carve.take<std::int8_t>(screen.neurons() * screen.code_stride());
        constant = carve.take<float>(screen.neurons());
        spread = carve.take<float>(screen.neurons());
        size = carve.take<float>(screen.neurons());
        if (terms.shift != nullptr) shift = carve.take<float>(screen.depth());
        if (terms.stretch != nullptr) stretch = carve.take<float>(screen.depth());
        if (terms.draw != nullptr) draw = carve.take<float>(screen.depth());
        bytes = carve.used();
    }
    std::int8_t* codes;
    float *constant, *spread, *size;
    float *shift = nullptr, *stretch = nullptr, *draw = nullptr;
    std::size_t bytes;
};

void copy(const float* from, std::size_t count, float* to) {
    if (from != nullptr) std::copy_n(from, count, to);
}

}  // namespace

DeviceScreen::DeviceScreen(const Modules& modules, Memory& memory, const Screen& screen)
    : memory_(memory), code_stride_(screen.code_stride()), terms_(screen.terms()) {
    const ScreenTerms& from = terms_;
    const AlignedBuffer image(Layout(nullptr, screen, from).bytes);
    const Layout host(image.data(), screen, from);
    screen.copy_codes(host.codes);
    copy(from.constant, screen.neurons(), host.constant);
    copy(from.spread, screen.neurons(), host.spread);
    copy(from.size, screen.neurons(), host.size);
    copy(from.shift, screen.depth(), host.shift);
    copy(from.stretch, screen.depth(), host.stretch);
    copy(from.draw, screen.depth(), host.draw);

    data_ = memory.allocate(image.size());
    const Driver& driver = modules.driver();
    CUresult result = driver.cuMemcpyHtoD(reinterpret_cast<CUdeviceptr>(data_), image.data(), image.size());
    // The copy may still be under way, and the streams of calls do not wait for it.
    if (result == CUDA_SUCCESS) result = driver.cuCtxSynchronize();
    if (result != CUDA_SUCCESS) memory.release(data_);
    driver.check(result, modules.device().text() + ": copying the certified screen");
    const Layout device(static_cast<char*>(data_), screen, from);
    codes_ = device.codes;
    terms_.constant = device.constant;
    terms_.spread = device.spread;
    terms_.size = device.size;
    terms_.shift = device.shift;
    terms_.stretch = device.stretch;
    terms_.draw = device.draw;
}

}  // namespace lazyneuron::cuda
