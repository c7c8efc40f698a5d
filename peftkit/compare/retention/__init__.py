"""What methods forget on probes: paired differences to the base model, and the front of learning and forgetting."""
