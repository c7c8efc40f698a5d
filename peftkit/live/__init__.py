"""Live views of runs: the progress of a folder, and a server that shows it and the report on this machine alone."""
