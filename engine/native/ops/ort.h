// ONNX Runtime's functions as typed pointers, its objects as RAII handles, its statuses as exceptions.
// Exceptions stay inside ops/ and cuda/: `as_status` turns them into statuses where the runtime calls us.
#pragma once

#include <exception>
#include <memory>
#include <string>

#include "ort_abi.h"

namespace lazyneuron {

// The functions, looked up once.
struct Ort {
    explicit Ort(const OrtApi* api);
#define LAZYNEURON_ORT_MEMBER(slot, name, result, arguments) result(LAZYNEURON_ORT_CALL* name) arguments;
    LAZYNEURON_ORT_FUNCTIONS(LAZYNEURON_ORT_MEMBER)
#undef LAZYNEURON_ORT_MEMBER

    // Throws what a failed call says.
    void check(OrtStatus* status) const;
};

// A model or its inputs are at fault. The message says what was got and what was expected.
class Refusal : public std::exception {
 public:
    explicit Refusal(std::string message) : message_(std::move(message)) {}
    const char* what() const noexcept override { return message_.c_str(); }

 private:
    std::string message_;
};

// Runs `body`; null on success, else a status made of what it threw, after `prefix` (which says whose it is,
// and may be set by the body).
template <class Body>
OrtStatus* as_status(const Ort& ort, const std::string& prefix, const Body& body) noexcept {
    try {
        body();
        return nullptr;
    } catch (const Refusal& refusal) {
        return ort.CreateStatus(ORT_INVALID_ARGUMENT, (prefix + refusal.what()).c_str());
    } catch (const std::exception& error) {
        return ort.CreateStatus(ORT_FAIL, (prefix + error.what()).c_str());
    } catch (...) {
        return ort.CreateStatus(ORT_FAIL, (prefix + "an error without a description").c_str());
    }
}

// A handle that calls the runtime's release function.
template <class Object>
class Handle {
 public:
    using Release = void (*)(Object*);
    explicit Handle(Release release) : release_(release) {}
    ~Handle() {
        if (object_ != nullptr) release_(object_);
    }
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;
    Object* get() const { return object_; }
    Object** out() { return &object_; }

 private:
    Release release_;
    Object* object_ = nullptr;
};

}  // namespace lazyneuron
