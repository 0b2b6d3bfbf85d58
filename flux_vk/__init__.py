"""flux_vk: language models as Vulkan dispatch chains."""
