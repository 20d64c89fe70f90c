"""Learners without gradient: statistics that add up, and what is solved from them."""
