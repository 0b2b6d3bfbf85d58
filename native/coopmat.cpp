#include "coopmat.hpp"

#include "enumerate.hpp"

namespace flux {

// The two extensions share these numbers.
static std::string component(uint32_t type) {
    static const char* const names[] = {"f16", "f32", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"};
    return type < 11 ? names[type] : std::to_string(type);
}

static std::string scope_word(uint32_t scope) {
    return scope == 1 ? "device" : scope == 2 ? "workgroup" : scope == 3 ? "subgroup" : std::to_string(scope);
}

// Every entry that a two-call query gives; nothing where the driver refuses.
template <typename Properties, typename Function, typename Result>
static std::vector<CoopShape> query(const vk::Instance& instance, const vk::PhysicalDevice& device, const char* name,
                                    VkStructureType type, Result Properties::* result) {
    auto function = reinterpret_cast<Function>(instance.getProcAddr(name));
    uint32_t count = 0;
    if (!function || function(device, &count, nullptr) != VK_SUCCESS) return {};
    Properties blank{};
    blank.sType = type;
    std::vector<Properties> found(count, blank);
    if (count && function(device, &count, found.data()) < VK_SUCCESS) return {};
    found.resize(count);
    std::vector<CoopShape> out;
    for (const auto& p : found)
        out.push_back({p.MSize, p.NSize, p.KSize, component(uint32_t(p.AType)), component(uint32_t(p.BType)),
                       component(uint32_t(p.CType)), component(uint32_t(p.*result)), scope_word(uint32_t(p.scope))});
    return out;
}

CoopMatrix cooperative_matrices(const vk::Instance& instance, const vk::PhysicalDevice& device) {
    CoopMatrix found;
    Features f(device);
    if (!f.v12.shaderFloat16 || !f.v12.vulkanMemoryModel) return found;
    if (has_extension(device, VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME)) {
        VkPhysicalDeviceCooperativeMatrixFeaturesKHR feature{};
        feature.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR;
        vk::PhysicalDeviceFeatures2 features;
        features.pNext = &feature;
        device.getFeatures2(&features);
        VkPhysicalDeviceCooperativeMatrixPropertiesKHR stages{};
        stages.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
        vk::PhysicalDeviceProperties2 properties;
        properties.pNext = &stages;
        device.getProperties2(&properties);
        if (feature.cooperativeMatrix && (stages.cooperativeMatrixSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT))
            found.khr =
                query<VkCooperativeMatrixPropertiesKHR, PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR>(
                    instance, device, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR",
                    VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR, &VkCooperativeMatrixPropertiesKHR::ResultType);
    }
    if (has_extension(device, VK_NV_COOPERATIVE_MATRIX_EXTENSION_NAME)) {
        vk::PhysicalDeviceCooperativeMatrixFeaturesNV feature;
        vk::PhysicalDeviceFeatures2 features;
        features.pNext = &feature;
        device.getFeatures2(&features);
        vk::PhysicalDeviceCooperativeMatrixPropertiesNV stages;
        vk::PhysicalDeviceProperties2 properties;
        properties.pNext = &stages;
        device.getProperties2(&properties);
        if (feature.cooperativeMatrix && (stages.cooperativeMatrixSupportedStages & vk::ShaderStageFlagBits::eCompute))
            found.nv = query<VkCooperativeMatrixPropertiesNV, PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesNV>(
                instance, device, "vkGetPhysicalDeviceCooperativeMatrixPropertiesNV",
                VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_NV, &VkCooperativeMatrixPropertiesNV::DType);
    }
    return found;
}

std::optional<CoopShape> usable_shape(const std::vector<CoopShape>& shapes) {
    const CoopShape* best = nullptr;
    for (const auto& s : shapes) {
        const bool types = s.a == "f16" && s.b == "f16" && s.c == "f32" && s.result == "f32" && s.scope == "subgroup";
        const bool sizes = (s.m == 8 || s.m == 16) && (s.n == 8 || s.n == 16) && (s.k == 8 || s.k == 16);
        if (types && sizes && (!best || s.m * s.n * s.k > best->m * best->n * best->k)) best = &s;
    }
    if (!best) return std::nullopt;
    return *best;
}

}  // namespace flux
