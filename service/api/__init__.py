"""The HTTP face of equipot: thin routes over the job store. Never imports torch, and ASE only where a file needs it."""
