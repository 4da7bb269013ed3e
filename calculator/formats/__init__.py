"""One module for each file format: `frames` cuts a text into single structures and bounds them, `read` reads one."""
