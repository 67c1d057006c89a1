"""The paper's experiment, from a plan in one file to its tables: rerun by anyone, gone on with where it stopped."""
