"""Device side: threads, sessions, differentiable segments, preprocessing, Runtime, adapt engine, workspace."""
