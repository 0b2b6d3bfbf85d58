#include "enumerate.hpp"

#include <cstring>

#include "coopmat.hpp"
#include "errors.hpp"

namespace py = pybind11;

namespace flux {

std::shared_ptr<vk::Instance> make_instance() {
    vk::ApplicationInfo application("flux_vk", 1, "flux_vk", 1, VK_API_VERSION_1_3);
    auto instance = std::make_shared<vk::Instance>();
    // A 1.0 loader refuses versions above its own; every loader since 1.1 accepts them.
    *instance = vk::createInstance(vk::InstanceCreateInfo({}, &application));
    return instance;
}

bool has_extension(const vk::PhysicalDevice& device, const char* name) {
    for (const auto& e : device.enumerateDeviceExtensionProperties())
        if (std::strcmp(e.extensionName, name) == 0) return true;
    return false;
}

Features::Features(const vk::PhysicalDevice& device) {
    has_v13 = device.getProperties().apiVersion >= VK_API_VERSION_1_3;
    base.pNext = &v11;
    v11.pNext = &v12;
    if (has_v13) v12.pNext = &v13;
    device.getFeatures2(&base);
}

static py::list feature_words(const vk::PhysicalDevice& device, const CoopMatrix& matrices) {
    Features f(device);
    py::list words;
    auto add = [&](bool there, const char* word) {
        if (there) words.append(word);
    };
    add(f.v11.storageBuffer16BitAccess, "storage16");
    add(f.v12.storageBuffer8BitAccess, "storage8");
    add(f.v12.shaderFloat16, "float16");
    add(f.v12.shaderInt8, "int8");
    add(f.base.features.shaderInt16, "int16");
    add(f.base.features.shaderInt64, "int64");
    if (f.has_v13) {
        add(f.v13.subgroupSizeControl, "subgroup_size_control");
        add(f.v13.computeFullSubgroups, "full_subgroups");
        add(f.v13.shaderIntegerDotProduct, "integer_dot");
        vk::PhysicalDeviceShaderIntegerDotProductProperties dot;
        vk::PhysicalDeviceProperties2 with_dot;
        with_dot.pNext = &dot;
        device.getProperties2(&with_dot);
        // Four signed bytes to a word, in fewer instructions than the shader would take for it.
        add(f.v13.shaderIntegerDotProduct && dot.integerDotProduct4x8BitPackedSignedAccelerated, "integer_dot_fast");
    }
    // A texel of four words; as many as a storage buffer binds elsewhere, so that windows serve both.
    constexpr uint32_t texels = 1u << 27;
    add(device.getProperties().limits.maxTexelBufferElements >= texels, "texel_buffers");
    add(usable_shape(matrices.khr).has_value(), "coopmat_khr");
    add(usable_shape(matrices.nv).has_value(), "coopmat_nv");
    vk::PhysicalDeviceSubgroupProperties subgroup;
    vk::PhysicalDeviceProperties2 properties;
    properties.pNext = &subgroup;
    device.getProperties2(&properties);
    if (subgroup.supportedStages & vk::ShaderStageFlagBits::eCompute) {
        using Bit = vk::SubgroupFeatureFlagBits;
        add(bool(subgroup.supportedOperations & Bit::eArithmetic), "subgroup_arith");
        add(bool(subgroup.supportedOperations & Bit::eShuffle), "subgroup_shuffle");
        add(bool(subgroup.supportedOperations & Bit::eBallot), "subgroup_ballot");
    }
    return words;
}

static std::string version_text(uint32_t v) {
    return std::to_string(VK_API_VERSION_MAJOR(v)) + "." + std::to_string(VK_API_VERSION_MINOR(v)) + "." +
           std::to_string(VK_API_VERSION_PATCH(v));
}

// Every shape with the extension that has it; limits["coopmat_shape"] is the one our kernels take.
static py::list shape_list(const CoopMatrix& matrices) {
    py::list out;
    auto append = [&](const char* api, const std::vector<CoopShape>& shapes) {
        for (const auto& s : shapes)
            out.append(py::dict(py::arg("api") = api, py::arg("m") = s.m, py::arg("n") = s.n, py::arg("k") = s.k,
                                py::arg("a") = s.a, py::arg("b") = s.b, py::arg("c") = s.c,
                                py::arg("result") = s.result, py::arg("scope") = s.scope));
    };
    append("khr", matrices.khr);
    append("nv", matrices.nv);
    return out;
}

static py::dict describe(const vk::Instance& instance, const vk::PhysicalDevice& device) {
    vk::PhysicalDeviceSubgroupProperties subgroup;
    vk::PhysicalDeviceMaintenance3Properties maintenance;
    vk::PhysicalDeviceDriverProperties driver;
    vk::PhysicalDeviceProperties2 properties;
    properties.pNext = &subgroup;
    subgroup.pNext = &maintenance;
    maintenance.pNext = &driver;
    vk::PhysicalDeviceSubgroupSizeControlProperties sizes_of_subgroups;
    if (device.getProperties().apiVersion >= VK_API_VERSION_1_3) driver.pNext = &sizes_of_subgroups;
    device.getProperties2(&properties);
    const auto& p = properties.properties;
    py::dict d;
    d["name"] = std::string(p.deviceName.data());
    d["type"] = vk::to_string(p.deviceType);
    d["api_version"] = version_text(p.apiVersion);
    d["usable"] = p.apiVersion >= VK_API_VERSION_1_2;
    d["vendor_id"] = p.vendorID;
    d["device_id"] = p.deviceID;
    d["driver_version"] = p.driverVersion;
    d["driver"] = std::string(driver.driverName.data()) + " " + std::string(driver.driverInfo.data());
    py::list uuid;
    for (uint8_t byte : p.pipelineCacheUUID) uuid.append(int(byte));
    d["cache_uuid"] = uuid;
    py::dict limits;
    limits["max_storage_buffer_range"] = uint64_t(p.limits.maxStorageBufferRange);
    limits["max_allocation"] = uint64_t(maintenance.maxMemoryAllocationSize);
    limits["storage_alignment"] =
        uint64_t(std::max(p.limits.minStorageBufferOffsetAlignment, p.limits.minTexelBufferOffsetAlignment));
    limits["max_push_bytes"] = p.limits.maxPushConstantsSize;
    limits["max_shared_bytes"] = p.limits.maxComputeSharedMemorySize;
    limits["max_workgroup_invocations"] = p.limits.maxComputeWorkGroupInvocations;
    limits["max_bindings"] = p.limits.maxPerStageDescriptorStorageBuffers;
    py::list counts, sizes;
    for (int i = 0; i < 3; i++) {
        counts.append(p.limits.maxComputeWorkGroupCount[i]);
        sizes.append(p.limits.maxComputeWorkGroupSize[i]);
    }
    limits["max_grid"] = counts;
    limits["max_workgroup_size"] = sizes;
    limits["subgroup_size"] = subgroup.subgroupSize;
    limits["timestamp_period_ns"] = p.limits.timestampComputeAndGraphics ? p.limits.timestampPeriod : 0.0f;
    d["limits"] = limits;
    const CoopMatrix matrices = cooperative_matrices(instance, device);
    d["coopmat"] = shape_list(matrices);
    auto usable = usable_shape(matrices.khr);
    if (!usable) usable = usable_shape(matrices.nv);
    py::list shape;
    if (usable)
        for (uint32_t size : {usable->m, usable->n, usable->k}) shape.append(size);
    limits["coopmat_shape"] = shape;
    // Invocations of a subgroup that multiplies matrices: Intel's do it by 16 where 32 are the default.
    constexpr uint32_t intel = 0x8086;
    const bool choice = p.apiVersion >= VK_API_VERSION_1_3 && sizes_of_subgroups.minSubgroupSize <= 16;
    limits["coopmat_lanes"] = p.vendorID == intel && choice ? std::min(16u, subgroup.subgroupSize) : subgroup.subgroupSize;
    d["features"] = feature_words(device, matrices);
    uint64_t local = 0;
    auto memory = device.getMemoryProperties();
    for (uint32_t i = 0; i < memory.memoryHeapCount; i++)
        if (memory.memoryHeaps[i].flags & vk::MemoryHeapFlagBits::eDeviceLocal) local += memory.memoryHeaps[i].size;
    d["memory"] = local;
    return d;
}

py::list enumerate_devices() {
    auto instance = make_instance();
    py::list out;
    try {
        for (const auto& device : instance->enumeratePhysicalDevices()) out.append(describe(*instance, device));
    } catch (...) {
        instance->destroy();
        throw;
    }
    instance->destroy();
    return out;
}

}  // namespace flux
