"""Repositories: they translate rows into frozen records and hand out nothing else."""
