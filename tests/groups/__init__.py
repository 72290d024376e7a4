"""Groups, without a broker."""
