// Cooperative matrices: what a device has of VK_KHR_cooperative_matrix and VK_NV_cooperative_matrix.
#pragma once
#include <optional>
#include <string>
#include <vector>
#include <vulkan/vulkan.hpp>

// Headers older than Vulkan 1.3.255 lack the KHR form; names and numbers are those of the Vulkan registry.
#ifndef VK_KHR_cooperative_matrix
#define VK_KHR_cooperative_matrix 1
#define VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME "VK_KHR_cooperative_matrix"
constexpr VkStructureType VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR = VkStructureType(1000506000);
constexpr VkStructureType VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR = VkStructureType(1000506001);
constexpr VkStructureType VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_PROPERTIES_KHR =
    VkStructureType(1000506002);
typedef uint32_t VkComponentTypeKHR;
typedef uint32_t VkScopeKHR;
struct VkPhysicalDeviceCooperativeMatrixFeaturesKHR {
    VkStructureType sType;
    void* pNext;
    VkBool32 cooperativeMatrix;
    VkBool32 cooperativeMatrixRobustBufferAccess;
};
struct VkPhysicalDeviceCooperativeMatrixPropertiesKHR {
    VkStructureType sType;
    void* pNext;
    VkShaderStageFlags cooperativeMatrixSupportedStages;
};
struct VkCooperativeMatrixPropertiesKHR {
    VkStructureType sType;
    void* pNext;
    uint32_t MSize, NSize, KSize;
    VkComponentTypeKHR AType, BType, CType, ResultType;
    VkBool32 saturatingAccumulation;
    VkScopeKHR scope;
};
typedef VkResult(VKAPI_PTR* PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)(VkPhysicalDevice, uint32_t*,
                                                                                   VkCooperativeMatrixPropertiesKHR*);
#endif

namespace flux {

// One multiply-add that the device does: [m, k] times [k, n] plus [m, n].
struct CoopShape {
    uint32_t m, n, k;
    std::string a, b, c, result, scope;
};

// What the device has of one of the two extensions; no shapes where it lacks the extension, its feature, the compute
// stage, 16-bit floats or the memory model that its shaders declare.
struct CoopMatrix {
    std::vector<CoopShape> khr, nv;
};

CoopMatrix cooperative_matrices(const vk::Instance& instance, const vk::PhysicalDevice& device);

// The shape that our kernels can use: f16 times f16 into f32, by one subgroup; 16x16x16 before smaller ones.
std::optional<CoopShape> usable_shape(const std::vector<CoopShape>& shapes);

}  // namespace flux
