// Recording and submitting: Kompute's Sequence and OpBase, with the operations Kompute leaves to its users.
#pragma once
#include <kompute/Sequence.hpp>
#include <kompute/operations/OpBase.hpp>

#include "device.hpp"

namespace flux {

struct Range {
    std::shared_ptr<Allocation> allocation;
    uint64_t offset = 0;
    uint64_t bytes = 0;
};

// A command buffer recorded through kp::Sequence, submitted by us: Kompute's own submit throws away the VkResults,
// makes a fence a time and destroys it while it may be in use.
class Recording {
   public:
    Recording(std::shared_ptr<Context> context, uint32_t queue, uint32_t timestamps);
    ~Recording();
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;

    void dispatch(std::shared_ptr<Pipeline> pipeline, const std::vector<Range>& ranges, const std::string& push,
                  uint32_t x, uint32_t y, uint32_t z);
    void dispatch_indirect(std::shared_ptr<Pipeline> pipeline, const std::vector<Range>& ranges,
                           const std::string& push, const Range& grid);
    void barrier();
    void copy(const Range& source, const Range& target);
    void fill(const Range& target, uint32_t value);
    void timestamp(uint32_t index);
    void end();

    void submit();
    bool poll();
    bool wait(uint64_t timeout_ns);  // false: time is up, still running
    std::vector<uint64_t> timestamps();  // ticks since the first

   private:
    void record(std::shared_ptr<kp::OpBase> op);
    vk::BufferView texel_view(const Range& range);
    vk::DescriptorSet descriptor_set(const Pipeline& pipeline, const std::vector<Range>& ranges);

    std::shared_ptr<Context> context_;
    Queue& queue_;
    std::shared_ptr<kp::Sequence> sequence_;
    vk::CommandBuffer commands_;
    std::vector<vk::BufferView> views_;
    std::vector<vk::DescriptorPool> pools_;
    uint32_t pool_left_ = 0;
    uint32_t pool_descriptors_ = 0;
    vk::Fence fence_;
    vk::QueryPool queries_;
    uint32_t n_timestamps_;
    bool ended_ = false;
    bool running_ = false;
};

}  // namespace flux
