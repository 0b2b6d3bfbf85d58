// The Python face of the native part; flux_vk.gpu.native wraps it.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "device.hpp"
#include "enumerate.hpp"
#include "errors.hpp"
#include "pack.hpp"
#include "sequence.hpp"

namespace py = pybind11;
using namespace flux;

using NoGil = py::call_guard<py::gil_scoped_release>;

static Range to_range(const py::tuple& t) {
    Range r{t[0].cast<std::shared_ptr<Allocation>>(), t[1].cast<uint64_t>(), t[2].cast<uint64_t>()};
    if (!r.allocation) throw Failure("VulkanError", "a range of memory that was never allocated");
    if (r.bytes == 0 || r.offset > r.allocation->bytes || r.bytes > r.allocation->bytes - r.offset)
        throw Failure("VulkanError", "a range of " + std::to_string(r.bytes) + " bytes at " + std::to_string(r.offset) +
                                         " is outside its buffer of " + std::to_string(r.allocation->bytes) + " bytes");
    return r;
}

static std::vector<Range> to_ranges(const py::list& list) {
    std::vector<Range> out;
    out.reserve(list.size());
    for (const auto& item : list) out.push_back(to_range(item.cast<py::tuple>()));
    return out;
}

using Bytes = py::array_t<uint8_t, py::array::c_style>;

static void pack_rows(const Bytes& source, Bytes& out, const std::vector<uint64_t>& words) {
    const PackProgram program(words);
    if (source.ndim() != 2 || out.ndim() != 2 || source.shape(0) != out.shape(0) || program.block_bytes == 0 ||
        size_t(source.shape(1)) % program.block_bytes)
        throw std::invalid_argument("pack_rows wants as many rows of whole blocks as there are rows to write");
    const size_t rows = size_t(source.shape(0)), blocks = size_t(source.shape(1)) / program.block_bytes;
    const size_t stride = size_t(out.shape(1));
    size_t end = 0;
    for (const auto& f : program.fields) {
        if (f.offset < end) throw std::invalid_argument("the planes of a packing program overlap");
        end = f.offset + blocks * f.out;
    }
    if (end > stride) throw std::invalid_argument("the planes do not fit the rows to write");
    const uint8_t* from = source.data();
    uint8_t* to = out.mutable_data();  // throws where the array may not be written
    py::gil_scoped_release release;
    program.run(from, rows, blocks, to, stride);
}

PYBIND11_MODULE(_kompute, m) {
    m.doc() = "Kompute's C++ core with the operations flux_vk needs";
    register_errors();
    m.def("enumerate_devices", &enumerate_devices, "Every Vulkan device as a dict of limits and features");

    m.def("pack_rows", &pack_rows, py::arg("source").noconvert(), py::arg("out").noconvert(), py::arg("program"),
          "Blocks [rows, bytes] into planes [rows, stride] as flux_vk.formats.layout.program says; without the GIL");

    py::class_<Allocation, std::shared_ptr<Allocation>>(m, "Allocation", py::buffer_protocol())
        .def_readonly("nbytes", &Allocation::bytes)
        .def_property_readonly("mapped", [](const Allocation& a) { return a.mapped != nullptr; })
        .def_buffer([](Allocation& a) {
            if (!a.mapped) throw Failure("VulkanError", "this memory is not visible to the host; copy it to a host buffer");
            return py::buffer_info(static_cast<uint8_t*>(a.mapped), py::ssize_t(a.bytes));
        });

    py::class_<Pipeline, std::shared_ptr<Pipeline>>(m, "Pipeline").def_readonly("name", &Pipeline::name);

    py::class_<Recording, std::shared_ptr<Recording>>(m, "Recording")
        .def("dispatch",
             [](Recording& self, std::shared_ptr<Pipeline> pipeline, const py::list& ranges, const py::bytes& push,
                uint32_t x, uint32_t y, uint32_t z) { self.dispatch(std::move(pipeline), to_ranges(ranges), push, x, y, z); })
        .def("dispatch_indirect",
             [](Recording& self, std::shared_ptr<Pipeline> pipeline, const py::list& ranges, const py::bytes& push,
                const py::tuple& grid) {
                 self.dispatch_indirect(std::move(pipeline), to_ranges(ranges), push, to_range(grid));
             })
        .def("barrier", &Recording::barrier)
        .def("copy", [](Recording& self, const py::tuple& s, const py::tuple& t) { self.copy(to_range(s), to_range(t)); })
        .def("fill", [](Recording& self, const py::tuple& t, uint32_t value) { self.fill(to_range(t), value); })
        .def("timestamp", &Recording::timestamp)
        .def("end", &Recording::end)
        .def("submit", &Recording::submit, NoGil())
        .def("poll", &Recording::poll)
        .def("wait", &Recording::wait, NoGil(), py::arg("timeout_ns") = UINT64_MAX)
        .def("timestamps", &Recording::timestamps);

    py::class_<Context, std::shared_ptr<Context>>(m, "Context")
        .def(py::init([](uint32_t index, const py::bytes& cache) { return std::make_shared<Context>(index, cache); }),
             py::arg("index"), py::arg("cache") = py::bytes())
        .def("allocate",
             [](std::shared_ptr<Context> self, uint64_t bytes, const std::string& kind) {
                 auto k = kind == "device" ? Allocation::Kind::Device
                          : kind == "host" ? Allocation::Kind::Host
                                           : Allocation::Kind::Readback;
                 return std::make_shared<Allocation>(std::move(self), bytes, k);
             })
        .def("pipeline",
             [](std::shared_ptr<Context> self, const std::string& name, const py::bytes& spirv, uint32_t bindings,
                uint32_t push_bytes, const std::vector<uint32_t>& spec, uint32_t subgroup_size, uint32_t texel) {
                 std::string code = spirv;
                 py::gil_scoped_release release;
                 return std::make_shared<Pipeline>(std::move(self), name, code, bindings, push_bytes, spec, subgroup_size,
                                                   texel);
             })
        .def("recording",
             [](std::shared_ptr<Context> self, uint32_t queue, uint32_t timestamps) {
                 return std::make_shared<Recording>(std::move(self), queue, timestamps);
             },
             py::arg("queue") = 0, py::arg("timestamps") = 0)
        .def("cache_data", [](const Context& self) { return py::bytes(self.cache_data()); })
        .def("heap_bytes", &Context::heap_bytes)
        .def_property_readonly("n_queues", [](const Context& self) { return self.queues.size(); })
        .def_readonly("timestamp_period_ns", &Context::timestamp_period);
}
