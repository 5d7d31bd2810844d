# Run as: cmake -DNM=... -DOBJECTS=a.o;b.o -P check_symbols.cmake
# A weak symbol (an inline function, a template) in an object that was compiled for wide vectors could be the copy
# that the linker keeps for the whole library, and then crash a machine without them. There must be none.
foreach(object IN LISTS OBJECTS)
    execute_process(COMMAND "${NM}" "${object}" OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
    string(REGEX MATCHALL "[0-9a-f]+ [VWuvw] [^\n]+" weak "${symbols}")
    if(weak)
        message(FATAL_ERROR "${object} defines weak symbols: ${weak}")
    endif()
endforeach()
