"""What each request does, a module a dialect; importing one registers its functions with the executor."""
