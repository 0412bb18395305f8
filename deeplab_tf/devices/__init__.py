"""What a process computes on, said aloud: cards, cores, memory, and what fails here."""
