"""Evolution of agents: mutate programs, score the population on the device over a recorded text, keep the fittest.

Not for: running models (recordings come from the command line), votes while generating (`flux_vk.decode`).
"""
