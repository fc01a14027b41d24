"""Published weights: safetensors and GGUF files in, safetensors out, model cards, the hub."""
