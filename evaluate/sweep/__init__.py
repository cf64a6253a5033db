"""What a sweep trains: axes, plan, cells, and the processes that run them."""
