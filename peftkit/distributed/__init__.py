"""The Accelerator, the launch of its processes, and the environment variables that affect both."""
