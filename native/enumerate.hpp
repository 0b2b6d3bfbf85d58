// What the devices of this machine are and can do, as plain data for Python.
#pragma once
#include <pybind11/pybind11.h>
#include <vulkan/vulkan.hpp>

namespace flux {

std::shared_ptr<vk::Instance> make_instance();
pybind11::list enumerate_devices();

// The feature structures we know, chained; filled by the device or used to switch features on.
struct Features {
    vk::PhysicalDeviceFeatures2 base;
    vk::PhysicalDeviceVulkan11Features v11;
    vk::PhysicalDeviceVulkan12Features v12;
    vk::PhysicalDeviceVulkan13Features v13;
    bool has_v13 = false;
    explicit Features(const vk::PhysicalDevice& device);
};

bool has_extension(const vk::PhysicalDevice& device, const char* name);

}  // namespace flux
