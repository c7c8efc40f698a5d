"""The data pipeline: tokenizes, checks, shuffles and batches a task's rows."""
