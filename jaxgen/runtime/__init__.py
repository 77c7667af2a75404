"""The machine: devices, processes, files, signals and progress."""
