#include "sequence.hpp"

#include "errors.hpp"

namespace flux {

using Stage = vk::PipelineStageFlagBits;
using Access = vk::AccessFlagBits;

// The base of our operations: Kompute calls record once; nothing is to be done around a submit.
struct Op : kp::OpBase {
    void preEval(const vk::CommandBuffer&) override {}
    void postEval(const vk::CommandBuffer&) override {}
};

struct OpBegin : Op {
    vk::CommandBuffer* out;
    explicit OpBegin(vk::CommandBuffer* out_) : out(out_) {}
    void record(const vk::CommandBuffer& commands) override { *out = commands; }
};

struct OpDispatch : Op {
    std::shared_ptr<Pipeline> pipeline;
    vk::DescriptorSet set;
    std::vector<Range> ranges;  // keeps the memory alive as long as the recording
    std::string push;
    std::array<uint32_t, 3> grid{};
    Range indirect;
    void record(const vk::CommandBuffer& commands) override {
        commands.bindPipeline(vk::PipelineBindPoint::eCompute, pipeline->handle);
        commands.bindDescriptorSets(vk::PipelineBindPoint::eCompute, pipeline->layout, 0, set, nullptr);
        if (!push.empty())
            commands.pushConstants(pipeline->layout, vk::ShaderStageFlagBits::eCompute, 0, uint32_t(push.size()), push.data());
        if (indirect.allocation)
            commands.dispatchIndirect(indirect.allocation->buffer, indirect.offset);
        else
            commands.dispatch(grid[0], grid[1], grid[2]);
    }
};

// Everything before is done and visible to everything after: kernels, transfers, indirect grids, the host's reads.
struct OpBarrier : Op {
    void record(const vk::CommandBuffer& commands) override {
        vk::MemoryBarrier memory(Access::eShaderWrite | Access::eTransferWrite,
                                 Access::eShaderRead | Access::eShaderWrite | Access::eTransferRead |
                                     Access::eTransferWrite | Access::eIndirectCommandRead | Access::eHostRead);
        commands.pipelineBarrier(Stage::eComputeShader | Stage::eTransfer,
                                 Stage::eComputeShader | Stage::eTransfer | Stage::eDrawIndirect | Stage::eHost, {},
                                 memory, nullptr, nullptr);
    }
};

struct OpCopy : Op {
    Range source, target;
    void record(const vk::CommandBuffer& commands) override {
        commands.copyBuffer(source.allocation->buffer, target.allocation->buffer,
                            vk::BufferCopy(source.offset, target.offset, source.bytes));
    }
};

struct OpFill : Op {
    Range target;
    uint32_t value = 0;
    void record(const vk::CommandBuffer& commands) override {
        commands.fillBuffer(target.allocation->buffer, target.offset, target.bytes, value);
    }
};

struct OpTimestamp : Op {
    vk::QueryPool pool;
    uint32_t index = 0;
    void record(const vk::CommandBuffer& commands) override {
        commands.writeTimestamp(index == 0 ? Stage::eTopOfPipe : Stage::eBottomOfPipe, pool, index);
    }
};

struct OpResetQueries : Op {
    vk::QueryPool pool;
    uint32_t count = 0;
    void record(const vk::CommandBuffer& commands) override { commands.resetQueryPool(pool, 0, count); }
};

Recording::Recording(std::shared_ptr<Context> context, uint32_t queue, uint32_t n_timestamps)
    : context_(std::move(context)),
      queue_(*context_->queues[queue % context_->queues.size()]),
      n_timestamps_(n_timestamps) {
    sequence_ = std::make_shared<kp::Sequence>(context_->physical, context_->device, queue_.handle, context_->family, 0u);
    fence_ = context_->device->createFence(vk::FenceCreateInfo());
    record(std::make_shared<OpBegin>(&commands_));
    if (n_timestamps_) {
        queries_ = context_->device->createQueryPool(vk::QueryPoolCreateInfo({}, vk::QueryType::eTimestamp, n_timestamps_));
        auto op = std::make_shared<OpResetQueries>();
        op->pool = queries_;
        op->count = n_timestamps_;
        record(op);
    }
}

Recording::~Recording() {
    auto& device = *context_->device;
    if (running_) {
        // Dropped by Python while it runs: other threads go on meanwhile.
        std::unique_ptr<pybind11::gil_scoped_release> release;
        if (PyGILState_Check()) release = std::make_unique<pybind11::gil_scoped_release>();
        try {
            (void)device.waitForFences(fence_, true, UINT64_MAX);
        } catch (const vk::SystemError&) {
            // The device is lost: nothing runs any more.
        }
    }
    sequence_->destroy();
    for (auto pool : pools_) device.destroy(pool);
    for (auto view : views_) device.destroy(view);
    if (queries_) device.destroy(queries_);
    device.destroy(fence_);
}

void Recording::record(std::shared_ptr<kp::OpBase> op) {
    if (ended_) throw Failure("VulkanError", "this recording has ended; record a new one");
    sequence_->record(op);
}

// Four 32-bit words a texel.
vk::BufferView Recording::texel_view(const Range& range) {
    if (range.bytes % 16)
        throw Failure("VulkanError", "a texel buffer of " + std::to_string(range.bytes) + " bytes; expected a multiple of 16");
    views_.push_back(context_->device->createBufferView(vk::BufferViewCreateInfo(
        {}, range.allocation->buffer, vk::Format::eR32G32B32A32Uint, range.offset, range.bytes)));
    return views_.back();
}

vk::DescriptorSet Recording::descriptor_set(const Pipeline& pipeline, const std::vector<Range>& ranges) {
    auto& device = *context_->device;
    const uint32_t n = uint32_t(ranges.size());
    if (n != pipeline.bindings)
        throw Failure("VulkanError", "kernel " + pipeline.name + " binds " + std::to_string(pipeline.bindings) +
                                         " buffers, got " + std::to_string(n));
    if (pool_left_ == 0 || pool_descriptors_ < n) {
        constexpr uint32_t sets = 64, descriptors = 640;
        const uint32_t count = std::max(descriptors, n);
        const vk::DescriptorPoolSize sizes[] = {{vk::DescriptorType::eStorageBuffer, count},
                                                {vk::DescriptorType::eUniformTexelBuffer, count}};
        pools_.push_back(device.createDescriptorPool(vk::DescriptorPoolCreateInfo({}, sets, sizes)));
        pool_left_ = sets;
        pool_descriptors_ = count;
    }
    pool_left_--;
    pool_descriptors_ -= n;
    auto set = device.allocateDescriptorSets(vk::DescriptorSetAllocateInfo(pools_.back(), pipeline.set_layout))[0];
    std::vector<vk::DescriptorBufferInfo> infos;
    for (const auto& r : ranges) infos.emplace_back(r.allocation->buffer, r.offset, r.bytes);
    std::vector<vk::BufferView> views(n);
    std::vector<vk::WriteDescriptorSet> writes;
    for (uint32_t i = 0; i < n; i++) {
        const auto type = binding_type(pipeline.texel, i);
        if (type == vk::DescriptorType::eUniformTexelBuffer) views[i] = texel_view(ranges[i]);
        writes.emplace_back(set, i, 0, 1, type, nullptr, &infos[i], &views[i]);
    }
    device.updateDescriptorSets(writes, nullptr);
    return set;
}

void Recording::dispatch(std::shared_ptr<Pipeline> pipeline, const std::vector<Range>& ranges, const std::string& push,
                         uint32_t x, uint32_t y, uint32_t z) {
    auto op = std::make_shared<OpDispatch>();
    op->set = descriptor_set(*pipeline, ranges);
    op->pipeline = std::move(pipeline);
    op->ranges = ranges;
    op->push = push;
    op->grid = {x, y, z};
    record(op);
}

void Recording::dispatch_indirect(std::shared_ptr<Pipeline> pipeline, const std::vector<Range>& ranges,
                                  const std::string& push, const Range& grid) {
    auto op = std::make_shared<OpDispatch>();
    op->set = descriptor_set(*pipeline, ranges);
    op->pipeline = std::move(pipeline);
    op->ranges = ranges;
    op->push = push;
    op->indirect = grid;
    record(op);
}

void Recording::barrier() { record(std::make_shared<OpBarrier>()); }

void Recording::copy(const Range& source, const Range& target) {
    auto op = std::make_shared<OpCopy>();
    op->source = source;
    op->target = target;
    record(op);
}

void Recording::fill(const Range& target, uint32_t value) {
    auto op = std::make_shared<OpFill>();
    op->target = target;
    op->value = value;
    record(op);
}

void Recording::timestamp(uint32_t index) {
    if (index >= n_timestamps_) throw Failure("VulkanError", "timestamp index outside the recording's query pool");
    auto op = std::make_shared<OpTimestamp>();
    op->pool = queries_;
    op->index = index;
    record(op);
}

void Recording::end() {
    if (ended_) return;
    barrier();  // makes the last writes visible to the host
    sequence_->end();
    ended_ = true;
}

void Recording::submit() {
    end();
    if (running_) throw Failure("VulkanError", "this recording is still running; wait for it before submitting again");
    context_->device->resetFences(fence_);
    vk::SubmitInfo info(0, nullptr, nullptr, 1, &commands_);
    std::lock_guard<std::mutex> guard(queue_.lock);
    queue_.handle->submit(info, fence_);
    running_ = true;
}

bool Recording::poll() {
    if (running_ && context_->device->getFenceStatus(fence_) == vk::Result::eSuccess) running_ = false;
    return !running_;
}

bool Recording::wait(uint64_t timeout_ns) {
    if (!running_) return true;
    if (context_->device->waitForFences(fence_, true, timeout_ns) == vk::Result::eTimeout) return false;
    running_ = false;
    return true;
}

std::vector<uint64_t> Recording::timestamps() {
    std::vector<uint64_t> out(n_timestamps_);
    if (n_timestamps_ == 0) return out;
    auto result = context_->device->getQueryPoolResults(queries_, 0, n_timestamps_, out.size() * 8, out.data(), 8,
                                                        vk::QueryResultFlagBits::e64);
    if (result != vk::Result::eSuccess)
        throw Failure("VulkanError", "timestamps are not there yet; wait for the submit first", vk::to_string(result));
    // Counters of fewer than 64 bits wrap; differences to the first stay right when they are cut to the same bits.
    const uint32_t bits = context_->timestamp_bits;
    const uint64_t mask = bits >= 64 ? ~uint64_t(0) : (uint64_t(1) << bits) - 1;
    const uint64_t first = out[0];
    for (auto& stamp : out) stamp = (stamp - first) & mask;
    return out;
}

}  // namespace flux
