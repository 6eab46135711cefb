"""What controllers and jobs share."""
