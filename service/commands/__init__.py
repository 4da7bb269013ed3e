"""The commands of the command line, one module for each group. Nothing here imports torch or ASE at the top."""
