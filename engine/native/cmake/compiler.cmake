# Finds a C++17 compiler or says, in one message, what is missing; sets the options that every target shares.
include(CheckLanguage)
check_language(CXX)
if(NOT CMAKE_CXX_COMPILER)
    message(FATAL_ERROR
        "lazyneuron's native operator needs a C++17 compiler, and none was found. Install one "
        "(Debian, Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install) "
        "or point the environment variable CXX to it, then build again.")
endif()
enable_language(CXX)
if(NOT "cxx_std_17" IN_LIST CMAKE_CXX_COMPILE_FEATURES)
    message(FATAL_ERROR
        "lazyneuron's native operator needs a C++17 compiler; ${CMAKE_CXX_COMPILER} "
        "(${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}) does not know C++17. Install a newer one "
        "(GCC 8, Clang 7 or later) or point the environment variable CXX to it, then build again.")
endif()

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
# A sanitized library must not take the place of the one that is used.
if(LAZYNEURON_SANITIZE)
    set(_library_default "${CMAKE_BINARY_DIR}")
else()
    set(_library_default "${CMAKE_SOURCE_DIR}/../lib")
endif()
set(LAZYNEURON_LIBRARY_DIRECTORY "${_library_default}" CACHE PATH "Where liblazyneuron_ops goes")

add_library(lazyneuron_options INTERFACE)
target_include_directories(lazyneuron_options INTERFACE "${CMAKE_SOURCE_DIR}")
target_compile_features(lazyneuron_options INTERFACE cxx_std_17)
# No contraction: a * b + c is an FMA where the source says so and nowhere else, or the same row would come out
# differently from differently unrolled loops.
target_compile_options(lazyneuron_options INTERFACE
    -O3 -ffp-contract=off -fvisibility=hidden -fvisibility-inlines-hidden)
set_property(TARGET lazyneuron_options PROPERTY INTERFACE_POSITION_INDEPENDENT_CODE ON)
if(LAZYNEURON_STRICT)
    target_compile_options(lazyneuron_options INTERFACE -Wall -Wextra -Werror)
endif()
if(LAZYNEURON_SANITIZE)
    list(JOIN LAZYNEURON_SANITIZE "," _sanitizers)
    target_compile_options(lazyneuron_options INTERFACE -fsanitize=${_sanitizers} -fno-omit-frame-pointer -g)
    target_link_options(lazyneuron_options INTERFACE -fsanitize=${_sanitizers})
    if("undefined" IN_LIST LAZYNEURON_SANITIZE)
        target_compile_options(lazyneuron_options INTERFACE -fno-sanitize-recover=undefined)
    endif()
endif()
