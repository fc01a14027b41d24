"""The labelling page: people rank outputs, write demonstrations and prompts in a browser."""
