// Vulkan results as Python exceptions of flux_vk.errors.
#pragma once
#include <pybind11/pybind11.h>
#include <stdexcept>
#include <string>
#include <vulkan/vulkan.hpp>

namespace flux {

// An error that is to be raised as flux_vk.errors.<kind> with a message of our own.
struct Failure : std::runtime_error {
    std::string kind;
    std::string result;
    Failure(std::string kind_, const std::string& message, std::string result_ = "")
        : std::runtime_error(message), kind(std::move(kind_)), result(std::move(result_)) {}
};

void register_errors();

}  // namespace flux
