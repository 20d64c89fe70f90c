"""Scenarios, metrics and reports: how learners are measured."""
