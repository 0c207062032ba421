"""What programs and notebooks call: results as a table, and encoders as modules."""
