"""GGUF files and block-quantised layouts. Knows nothing of the GPU; import its modules directly."""
