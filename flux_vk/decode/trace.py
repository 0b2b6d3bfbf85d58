"""What the device tells about a vote, made ready for the trace file.

Not for: the file's format, writer and reader (flux_vk/flux/trace.py, which rooms below this one can use too).
"""
