// In a file of its own, so that a test can put another driver in its place.
#include "cuda/driver.h"

namespace lazyneuron::cuda {

const OpenedDriver& machine_driver() {
    static const OpenedDriver opened = open_driver("libcuda.so.1");
    return opened;
}

}  // namespace lazyneuron::cuda
