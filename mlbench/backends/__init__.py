"""All input and output: each module fulfils one port."""
