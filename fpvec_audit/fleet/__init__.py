"""Fleets: what the single commands do, done to thousands of models on a cluster; Ray schedules, services do the work.

The only room that imports Ray, inside the functions that need it.
"""
