"""The command lines of `python -m flux_vk.train`, one module each. Not for library use."""
