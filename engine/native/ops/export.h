// Everything is hidden but what carries this.
#pragma once

#define LAZYNEURON_EXPORT extern "C" __attribute__((visibility("default")))
