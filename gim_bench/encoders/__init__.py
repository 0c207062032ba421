"""Networks: encoders cut into modules, and autoregressors."""
