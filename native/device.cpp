#include "device.hpp"

#include <cstring>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "coopmat.hpp"
#include "enumerate.hpp"
#include "errors.hpp"

namespace flux {

static uint32_t compute_family(const vk::PhysicalDevice& device) {
    auto families = device.getQueueFamilyProperties();
    // A family for compute alone leaves the graphics queue to the desktop; else any with compute.
    for (uint32_t i = 0; i < families.size(); i++)
        if ((families[i].queueFlags & vk::QueueFlagBits::eCompute) &&
            !(families[i].queueFlags & vk::QueueFlagBits::eGraphics))
            return i;
    for (uint32_t i = 0; i < families.size(); i++)
        if (families[i].queueFlags & vk::QueueFlagBits::eCompute) return i;
    throw Failure("VulkanUnavailable", "the device has no compute queue; choose another with --device");
}

Context::Context(uint32_t index, const std::string& cache_bytes) {
    try {
        open(index, cache_bytes);
    } catch (...) {
        close();  // a constructor that throws has no destructor
        throw;
    }
}

Context::~Context() { close(); }

void Context::open(uint32_t index, const std::string& cache_bytes) {
    instance = make_instance();
    auto devices = instance->enumeratePhysicalDevices();
    if (index >= devices.size())
        throw Failure("UnknownDevice", "device index " + std::to_string(index) + " is not there; found " +
                                           std::to_string(devices.size()) + " Vulkan devices");
    physical = std::make_shared<vk::PhysicalDevice>(devices[index]);
    memory = physical->getMemoryProperties();
    auto properties = physical->getProperties();
    type = properties.deviceType;
    timestamp_period = properties.limits.timestampComputeAndGraphics ? properties.limits.timestampPeriod : 0.0f;
    family = compute_family(*physical);
    timestamp_bits = physical->getQueueFamilyProperties()[family].timestampValidBits;
    if (timestamp_bits == 0) timestamp_period = 0.0f;
    uint32_t n_queues = std::min(2u, physical->getQueueFamilyProperties()[family].queueCount);
    std::vector<float> priorities(n_queues, 1.0f);
    vk::DeviceQueueCreateInfo queue_info({}, family, n_queues, priorities.data());

    // Ask for exactly what we use, and only where the device reports it.
    Features has(*physical);
    Features on = has;
    on.base.features = vk::PhysicalDeviceFeatures();
    on.base.features.shaderInt16 = has.base.features.shaderInt16;
    on.base.features.shaderInt64 = has.base.features.shaderInt64;
    on.v11 = vk::PhysicalDeviceVulkan11Features();
    on.v11.storageBuffer16BitAccess = has.v11.storageBuffer16BitAccess;
    on.v12 = vk::PhysicalDeviceVulkan12Features();
    on.v12.storageBuffer8BitAccess = has.v12.storageBuffer8BitAccess;
    on.v12.shaderFloat16 = has.v12.shaderFloat16;
    on.v12.shaderInt8 = has.v12.shaderInt8;
    on.v13 = vk::PhysicalDeviceVulkan13Features();
    on.v13.subgroupSizeControl = has.v13.subgroupSizeControl;
    on.v13.computeFullSubgroups = has.v13.computeFullSubgroups;
    on.v13.shaderIntegerDotProduct = has.v13.shaderIntegerDotProduct;
    on.base.pNext = &on.v11;
    on.v11.pNext = &on.v12;
    on.v12.pNext = has.has_v13 ? &on.v13 : nullptr;
    on.v13.pNext = nullptr;
    subgroup_size_control = has.has_v13 && has.v13.subgroupSizeControl;
    full_subgroups = has.has_v13 && has.v13.computeFullSubgroups;
    std::vector<const char*> extensions;
    memory_budget = has_extension(*physical, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
    if (memory_budget) extensions.push_back(VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
    // Cooperative matrices, where a shape is of use to us; their shaders declare the Vulkan memory model.
    const CoopMatrix matrices = cooperative_matrices(*instance, *physical);
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR coop_khr{};
    coop_khr.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR;
    coop_khr.cooperativeMatrix = VK_TRUE;
    vk::PhysicalDeviceCooperativeMatrixFeaturesNV coop_nv(VK_TRUE);
    void** tail = has.has_v13 ? &on.v13.pNext : &on.v12.pNext;
    if (usable_shape(matrices.khr)) {
        extensions.push_back(VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME);
        *tail = &coop_khr;
        tail = &coop_khr.pNext;
    }
    if (usable_shape(matrices.nv)) {
        extensions.push_back(VK_NV_COOPERATIVE_MATRIX_EXTENSION_NAME);
        *tail = &coop_nv;
    }
    on.v12.vulkanMemoryModel = usable_shape(matrices.khr) || usable_shape(matrices.nv);
    vk::DeviceCreateInfo info({}, 1, &queue_info, 0, nullptr, uint32_t(extensions.size()), extensions.data());
    info.pNext = &on.base;
    device = std::make_shared<vk::Device>(physical->createDevice(info));
    for (uint32_t i = 0; i < n_queues; i++) {
        auto q = std::make_unique<Queue>();
        q->handle = std::make_shared<vk::Queue>(device->getQueue(family, i));
        queues.push_back(std::move(q));
    }
    manager = std::make_unique<kp::Manager>(instance, physical, device);
    cache = device->createPipelineCache(vk::PipelineCacheCreateInfo({}, cache_bytes.size(), cache_bytes.data()));
}

void Context::close() {
    if (device) {
        try {
            device->waitIdle();
        } catch (const vk::SystemError&) {
            // A lost device can still be destroyed.
        }
        for (auto& [key, layout] : pipeline_layouts_) device->destroy(layout);
        for (auto& [key, layout] : set_layouts_) device->destroy(layout);
        if (cache) device->destroy(cache);
        manager.reset();
        queues.clear();
        device->destroy();
    }
    if (instance) instance->destroy();
#ifdef __GLIBC__
    // Threads that compile and upload come and go with every load, each with an arena of its own, and what the driver
    // frees stays scattered over them (150 MB after thirty loads). One arena for all would do too, but costs prompts of
    // small models a third: llvmpipe allocates for every workgroup of a kernel with barriers.
    malloc_trim(0);
#endif
}

std::string Context::cache_data() const {
    auto bytes = device->getPipelineCacheData(cache);
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::pair<int64_t, int64_t> Context::heap_bytes() const {
    vk::PhysicalDeviceMemoryBudgetPropertiesEXT budget;
    vk::PhysicalDeviceMemoryProperties2 properties;
    if (memory_budget) properties.pNext = &budget;
    physical->getMemoryProperties2(&properties);
    int64_t total = 0, available = memory_budget ? 0 : -1;
    const auto& m = properties.memoryProperties;
    for (uint32_t i = 0; i < m.memoryHeapCount; i++) {
        if (!(m.memoryHeaps[i].flags & vk::MemoryHeapFlagBits::eDeviceLocal)) continue;
        total += int64_t(m.memoryHeaps[i].size);
        if (memory_budget) available += std::max<int64_t>(0, int64_t(budget.heapBudget[i]) - int64_t(budget.heapUsage[i]));
    }
    return {total, available};
}

std::pair<vk::DescriptorSetLayout, vk::PipelineLayout> Context::layouts(uint32_t bindings, uint32_t push_bytes,
                                                                              uint32_t texel) {
    std::lock_guard<std::mutex> guard(layout_lock_);
    auto& set = set_layouts_[{bindings, texel}];
    if (!set) {
        std::vector<vk::DescriptorSetLayoutBinding> list;
        for (uint32_t i = 0; i < bindings; i++)
            list.emplace_back(i, binding_type(texel, i), 1, vk::ShaderStageFlagBits::eCompute);
        set = device->createDescriptorSetLayout(vk::DescriptorSetLayoutCreateInfo({}, list));
    }
    auto& layout = pipeline_layouts_[{bindings, push_bytes, texel}];
    if (!layout) {
        vk::PushConstantRange range(vk::ShaderStageFlagBits::eCompute, 0, push_bytes);
        vk::PipelineLayoutCreateInfo info({}, 1, &set, push_bytes ? 1u : 0u, &range);
        layout = device->createPipelineLayout(info);
    }
    return {set, layout};
}

// Index of the memory type with the wanted flags (and as many of the nice ones as possible), or -1.
static int pick_type(const vk::PhysicalDeviceMemoryProperties& memory, uint32_t allowed, vk::MemoryPropertyFlags need,
                     vk::MemoryPropertyFlags nice) {
    int found = -1;
    for (uint32_t i = 0; i < memory.memoryTypeCount; i++) {
        auto flags = memory.memoryTypes[i].propertyFlags;
        if (!(allowed & (1u << i)) || (flags & need) != need) continue;
        if ((flags & nice) == nice) return int(i);
        if (found < 0) found = int(i);
    }
    return found;
}

// What was asked for and what there is, with what to do; other results than running out are passed on as they are.
[[noreturn]] static void refused(const Context& context, uint64_t bytes, const vk::SystemError& error) {
    const auto result = static_cast<vk::Result>(error.code().value());
    if (result != vk::Result::eErrorOutOfDeviceMemory && result != vk::Result::eErrorOutOfHostMemory &&
        result != vk::Result::eErrorMemoryMapFailed && result != vk::Result::eErrorTooManyObjects)
        throw error;
    auto [total, available] = context.heap_bytes();
    std::string message = "the device refused an allocation of " + std::to_string(bytes) +
                          " bytes (device memory: " + std::to_string(total) + " bytes in all";
    if (available >= 0) message += ", " + std::to_string(available) + " free";
    throw Failure("OutOfDeviceMemory", message + "); use a smaller context, model or batch", vk::to_string(result));
}

Allocation::Allocation(std::shared_ptr<Context> c, uint64_t n, Kind kind) : context(std::move(c)), bytes(n) {
    using Flag = vk::MemoryPropertyFlagBits;
    using Usage = vk::BufferUsageFlagBits;
    auto& device = *context->device;
    try {
        buffer = device.createBuffer(vk::BufferCreateInfo(
            {}, n, Usage::eStorageBuffer | Usage::eUniformTexelBuffer | Usage::eTransferSrc | Usage::eTransferDst |
                        Usage::eIndirectBuffer));
    } catch (const vk::SystemError& error) {
        refused(*context, n, error);
    }
    auto requirements = device.getBufferMemoryRequirements(buffer);
    const vk::MemoryPropertyFlags host = Flag::eHostVisible | Flag::eHostCoherent;
    const bool unified =
        context->type == vk::PhysicalDeviceType::eCpu || context->type == vk::PhysicalDeviceType::eIntegratedGpu;
    vk::MemoryPropertyFlags need, nice;
    if (kind == Kind::Device) {
        need = Flag::eDeviceLocal;
        if (unified) nice = host;
    } else {
        need = host;
        if (kind == Kind::Readback) nice = Flag::eHostCached;
    }
    int index = pick_type(context->memory, requirements.memoryTypeBits, need, nice);
    if (index < 0) {
        device.destroy(buffer);
        throw Failure("VulkanError", "the device has no memory type for this kind of buffer");
    }
    try {
        memory = device.allocateMemory(vk::MemoryAllocateInfo(requirements.size, uint32_t(index)));
        device.bindBufferMemory(buffer, memory, 0);
        auto flags = context->memory.memoryTypes[uint32_t(index)].propertyFlags;
        if ((flags & host) == host) mapped = device.mapMemory(memory, 0, VK_WHOLE_SIZE);
    } catch (const vk::SystemError& error) {
        device.destroy(buffer);
        if (memory) device.freeMemory(memory);
        refused(*context, requirements.size, error);
    }
}

Allocation::~Allocation() {
    if (mapped) context->device->unmapMemory(memory);
    context->device->destroy(buffer);
    context->device->freeMemory(memory);
}

Pipeline::Pipeline(std::shared_ptr<Context> c, const std::string& n, const std::string& spirv, uint32_t nb, uint32_t np,
                   const std::vector<uint32_t>& spec, uint32_t subgroup_size, uint32_t t)
    : context(std::move(c)), name(n), bindings(nb), push_bytes(np), texel(t) {
    auto& device = *context->device;
    std::tie(set_layout, layout) = context->layouts(bindings, push_bytes, texel);
    std::vector<uint32_t> words(spirv.size() / 4);
    std::memcpy(words.data(), spirv.data(), words.size() * 4);
    auto module = device.createShaderModule(vk::ShaderModuleCreateInfo({}, words));
    std::vector<vk::SpecializationMapEntry> entries;
    for (uint32_t i = 0; i < spec.size(); i++) entries.emplace_back(i, i * 4, 4);
    vk::SpecializationInfo specialization(uint32_t(entries.size()), entries.data(), spec.size() * 4, spec.data());
    vk::PipelineShaderStageCreateInfo stage({}, vk::ShaderStageFlagBits::eCompute, module, "main", &specialization);
    vk::PipelineShaderStageRequiredSubgroupSizeCreateInfo required(subgroup_size);
    // A kernel that asks for a size works by whole subgroups.
    if (subgroup_size && context->subgroup_size_control) stage.pNext = &required;
    if (subgroup_size && context->full_subgroups)
        stage.flags |= vk::PipelineShaderStageCreateFlagBits::eRequireFullSubgroups;
    try {
        handle = device.createComputePipeline(context->cache, vk::ComputePipelineCreateInfo({}, stage, layout)).value;
    } catch (const vk::SystemError&) {
        device.destroy(module);
        throw;
    }
    device.destroy(module);
}

Pipeline::~Pipeline() { context->device->destroy(handle); }

}  // namespace flux
