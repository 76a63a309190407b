"""Networks, the deployed form of them, and encoders."""
