"""One decoder-only transformer for the GPT and Llama families."""
