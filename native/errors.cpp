#include "errors.hpp"

namespace py = pybind11;

namespace flux {

static const char* kind_of(vk::Result result) {
    switch (result) {
        case vk::Result::eErrorOutOfDeviceMemory:
        case vk::Result::eErrorOutOfHostMemory:
        case vk::Result::eErrorOutOfPoolMemory:
        case vk::Result::eErrorFragmentedPool:
            return "OutOfDeviceMemory";
        case vk::Result::eErrorDeviceLost:
            return "DeviceLost";
        case vk::Result::eErrorIncompatibleDriver:
        case vk::Result::eErrorInitializationFailed:
            return "VulkanUnavailable";
        default:
            return "VulkanError";
    }
}

static void raise(const std::string& kind, const std::string& message, const std::string& result) {
    py::object type = py::module_::import("flux_vk.errors").attr(kind.c_str());
    py::object error = type(message, result);
    PyErr_SetObject(type.ptr(), error.ptr());
}

void register_errors() {
    py::register_exception_translator([](std::exception_ptr pointer) {
        try {
            if (pointer) std::rethrow_exception(pointer);
        } catch (const Failure& failure) {
            raise(failure.kind, failure.what(), failure.result);
        } catch (const vk::SystemError& error) {
            auto result = static_cast<vk::Result>(error.code().value());
            raise(kind_of(result), error.what(), vk::to_string(result));
        }
    });
}

}  // namespace flux
