"""Who may connect: passwords, and the verdict on a CONNECT."""
