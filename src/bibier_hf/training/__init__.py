"""Training: arguments, samplers, optimisers, the trainer and the run that puts them together."""
