"""Pure functions that grade a text: no model, no file, no JAX."""
