"""Pure: values and their bytes, captures, keys, the plan of a run. No input or output, no heavy library at import."""
