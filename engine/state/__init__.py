"""State kept between steps: per conditioning, and residuals per block."""
