"""Where do tasks run? In this process, in local processes, on Dask or on Slurm."""
