"""What models take of microcontrollers, counted on virtual boards."""
