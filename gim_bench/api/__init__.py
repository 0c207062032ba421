"""Functions for programs and notebooks: results as a table, and encoders as modules."""
