"""The baselines of continual learning, one short file each, on the host that every learner shares."""
