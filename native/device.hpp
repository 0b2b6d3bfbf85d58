// A Vulkan device of our own making, with the features it has, handed to Kompute's Manager; memory and pipelines on it.
#pragma once
#include <array>
#include <kompute/Manager.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace flux {

struct Queue {
    std::shared_ptr<vk::Queue> handle;
    std::mutex lock;  // vkQueueSubmit wants the queue for itself
};

// Everything that must outlive allocations, pipelines and sequences.
class Context {
   public:
    Context(uint32_t index, const std::string& cache);
    ~Context();
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;

    std::shared_ptr<vk::Instance> instance;
    std::shared_ptr<vk::PhysicalDevice> physical;
    std::shared_ptr<vk::Device> device;
    std::unique_ptr<kp::Manager> manager;
    std::vector<std::unique_ptr<Queue>> queues;
    uint32_t family = 0;
    vk::PipelineCache cache;
    vk::PhysicalDeviceMemoryProperties memory;
    vk::PhysicalDeviceType type;
    float timestamp_period = 1.0f;
    uint32_t timestamp_bits = 64;
    bool subgroup_size_control = false;
    bool full_subgroups = false;
    bool memory_budget = false;

    std::string cache_data() const;
    // (total, free) bytes of the device-local heaps; free is what VK_EXT_memory_budget says, else -1.
    std::pair<int64_t, int64_t> heap_bytes() const;
    // Set layout and pipeline layout, shared by all kernels with as many bindings and push bytes. A bit of `texel` says
    // that the binding of that number is a uniform texel buffer; the others are storage buffers.
    std::pair<vk::DescriptorSetLayout, vk::PipelineLayout> layouts(uint32_t bindings, uint32_t push_bytes, uint32_t texel);

   private:
    void open(uint32_t index, const std::string& cache);
    void close();
    std::mutex layout_lock_;
    std::map<std::pair<uint32_t, uint32_t>, vk::DescriptorSetLayout> set_layouts_;  // bindings, texel
    std::map<std::array<uint32_t, 3>, vk::PipelineLayout> pipeline_layouts_;        // bindings, push bytes, texel
};

class Allocation {
   public:
    enum class Kind { Device, Host, Readback };
    Allocation(std::shared_ptr<Context> context, uint64_t bytes, Kind kind);
    ~Allocation();
    Allocation(const Allocation&) = delete;
    Allocation& operator=(const Allocation&) = delete;

    std::shared_ptr<Context> context;
    vk::Buffer buffer;
    vk::DeviceMemory memory;
    uint64_t bytes;
    void* mapped = nullptr;  // null where the host cannot see the memory
};

struct Pipeline {
    Pipeline(std::shared_ptr<Context> context, const std::string& name, const std::string& spirv, uint32_t bindings,
             uint32_t push_bytes, const std::vector<uint32_t>& spec, uint32_t subgroup_size, uint32_t texel);
    ~Pipeline();
    Pipeline(const Pipeline&) = delete;
    Pipeline& operator=(const Pipeline&) = delete;

    std::shared_ptr<Context> context;
    std::string name;
    uint32_t bindings;
    uint32_t push_bytes;
    uint32_t texel;
    vk::DescriptorSetLayout set_layout;
    vk::PipelineLayout layout;
    vk::Pipeline handle;
};

inline vk::DescriptorType binding_type(uint32_t texel, uint32_t binding) {
    return (texel >> binding) & 1u ? vk::DescriptorType::eUniformTexelBuffer : vk::DescriptorType::eStorageBuffer;
}

}  // namespace flux
