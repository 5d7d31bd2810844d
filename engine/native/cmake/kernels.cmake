# Each algorithm of kernels/ is compiled once for every instruction set of the target's architecture. A new
# algorithm is a line in LAZYNEURON_ALGORITHMS; a new instruction set is a header in kernels/simd, a line here,
# a namespace in kernels/targets.h and an entry in dispatch/instruction_sets.cc.
set(LAZYNEURON_ALGORITHMS kernels/accumulate.cc kernels/project.cc kernels/screen.cc
    kernels/select.cc)
set(LAZYNEURON_KERNEL_OBJECTS "")

function(lazyneuron_add_target name)
    add_library(lazyneuron_kernels_${name} OBJECT ${LAZYNEURON_ALGORITHMS})
    target_link_libraries(lazyneuron_kernels_${name} PRIVATE lazyneuron_options)
    target_compile_definitions(lazyneuron_kernels_${name} PRIVATE
        LAZYNEURON_TARGET=${name} LAZYNEURON_SIMD_HEADER="kernels/simd/${name}.h")
    target_compile_options(lazyneuron_kernels_${name} PRIVATE -fno-exceptions -fno-rtti ${ARGN})
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        # GCC's own AVX-512 header uses undefined vectors on purpose and then warns about them (GCC bug 105593).
        target_compile_options(lazyneuron_kernels_${name} PRIVATE -Wno-maybe-uninitialized -Wno-uninitialized)
    endif()
    set(LAZYNEURON_KERNEL_OBJECTS ${LAZYNEURON_KERNEL_OBJECTS} $<TARGET_OBJECTS:lazyneuron_kernels_${name}>
        PARENT_SCOPE)
endfunction()

if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    lazyneuron_add_target(scalar -fno-vectorize -fno-slp-vectorize)
else()
    lazyneuron_add_target(scalar -fno-tree-vectorize -fno-tree-slp-vectorize)
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    lazyneuron_add_target(sse2)
    lazyneuron_add_target(avx2 -mavx2 -mfma -mf16c -mpopcnt)
    set(_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mpopcnt)
    lazyneuron_add_target(avx512 ${_avx512})
    lazyneuron_add_target(avx512vnni ${_avx512} -mavx512vnni)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    lazyneuron_add_target(neon)
endif()
