"""From the trained form to integers, and the integer operators that a device computes."""
