"""Many jobs by one command: what is settled before the first, a process for each, and what becomes of them."""
