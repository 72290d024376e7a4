"""What operators ask of a running worker: requests and answers, and what carries them out."""
